// Configuration files. A configuration is read, checked and completed as a whole, or refused with everything that is wrong with it,
// one `file:line:col: what, and the nearest valid key or value` a line.
//
//   const std::vector<std::string> sets = {"training.steps=20"};
//   LocatedConfig located = read_located_config("job.yaml", sets);                    // throws Error(Exit::configuration)
//   check_world(located, world.size());                                               // once the number of ranks is known
//   fmt::print("{}", print_config(located.config));                                   // reads back equal
#pragma once
#include <span>
#include <string>

#include "trainer/check_config.h"
#include "trainer/config.h"

namespace offramp {

struct LocatedConfig {
  Config config;
  Locations at;
};

// `sets`: "a.b=value", applied in order after the file and what it extends. Defaults that follow from other keys are filled in.
LocatedConfig read_located_config(const std::string& path, std::span<const std::string> sets);
Config read_config(const std::string& path, std::span<const std::string> sets);

// Throws Error(Exit::configuration) when this many ranks cannot run the job.
void check_world(const LocatedConfig& located, int world_size);

// Throws Error(Exit::configuration): a line each, in the order of their places.
[[noreturn]] void refuse_configuration(Problems problems);

// The whole effective configuration as YAML.
std::string print_config(const Config& config);

}  // namespace offramp
