// What the files with the schema's keys share. Only trainer/schema*.cpp include this.
#pragma once
#include "trainer/schema.h"

namespace offramp {

std::vector<SchemaKey> model_keys();
std::vector<SchemaKey> exit_keys();
std::vector<SchemaKey> loss_keys();
std::vector<SchemaKey> parallel_keys();
std::vector<SchemaKey> training_keys();
std::vector<SchemaKey> tuning_keys();
std::vector<SchemaKey> supernet_keys();
std::vector<SchemaKey> optimizer_keys();
std::vector<SchemaKey> data_keys();

constexpr ValueRange kSize{1, 2147483647}, kSteps{0, 1e15}, kPositive{.min = 0, .above_min = true}, kNotNegative{.min = 0};
constexpr ValueRange kFraction{.min = 0, .max = 1, .below_max = true};

inline bool always(const Config&) { return true; }

#define KEY_AT(member) [](Config& c, std::size_t) -> KeyField { return &c.member; }
#define KEY_AT_EXIT(member) [](Config& c, std::size_t i) -> KeyField { return &c.exits[i].member; }

}  // namespace offramp
