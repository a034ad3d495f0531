// The schema: every key of a configuration, once. Reading, error messages, suggestions, --print-config and the reference in
// docs/configuration.md all follow this table; defaults are those of a default-constructed Config.
//
//   const SchemaKey* key = find_key("training.steps");
//   assign(*key, config, 0, node, problems);
#pragma once
#include <array>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "trainer/config.h"
#include "trainer/yaml_tree.h"

namespace offramp {

// Where a key's value lives. With `choices`, a bool or an enumeration is written as the choice of that index.
using KeyField = std::variant<std::int64_t*, std::uint64_t*, int*, double*, bool*, std::string*, HeadKind*, Target*, ExitInit*, PlanKind*,
                              std::array<double, 2>*, std::array<std::int64_t, 2>*, std::vector<std::int64_t>*, std::vector<CorpusConfig>*,
                              InFlight*, LayerList*>;

struct ValueRange {
  double min = -std::numeric_limits<double>::infinity(), max = std::numeric_limits<double>::infinity();
  bool above_min = false, below_max = false;  // the bound itself is outside
  bool contains(double value) const { return above_min ? value > min : value >= min && (below_max ? value < max : value <= max); }
  std::string text() const;  // "at least 1", "from 1 to 1024", "above 0"
};

// Where a key means something. Elsewhere it is not printed, and refused when it is given.
struct KeyCondition {
  bool (*holds)(const Config&) = nullptr;  // none: everywhere
  std::string_view depends_on{};           // the key that decides it
  std::string_view otherwise{};            // what is wrong with the key elsewhere, and what to do
};

struct KeyRule {
  bool (*required)(const Config&) = nullptr;  // none: never
  ValueRange range{};
  std::string_view range_note{};            // said of a value outside
  std::vector<std::string_view> choices{};  // "file:PATH" stands for all that begins with "file:"
  std::string_view zero_word{};             // an integer that is written so when it is 0: auto
  std::string_view default_note{};          // a default that follows from other keys
  KeyCondition means{};
};

struct SchemaKey {
  std::string_view path;  // "exits[].layer" for a key of every exit
  KeyField (*field)(Config&, std::size_t exit);
  std::string_view doc;
  KeyRule rule{};

  bool required(const Config& config) const { return rule.required != nullptr && rule.required(config); }
  bool means_something(const Config& config) const { return rule.means.holds == nullptr || rule.means.holds(config); }
};

const std::vector<SchemaKey>& schema();
const SchemaKey* find_key(std::string_view path);
bool is_section(std::string_view path);                         // "model", "optimizer.lr_schedule", "exits[]"
std::vector<std::string> keys_below(std::string_view section);  // names of keys and sections right below; "" for the top

// Reads `node` into the key's field, or says what is wrong; some problems of a list lie deeper than `node`.
void assign(const SchemaKey& key, Config& config, std::size_t exit, const YamlNode& node, Problems& problems);
// A finite number of the range; what is wrong with it otherwise.
std::optional<std::string> read_real(double& to, const ValueRange& range, const YamlNode& node);
// The key's value as YAML in one line.
std::string print_value(const SchemaKey& key, const Config& config, std::size_t exit);

// What is said of a word that names something we do not plan: mixture of experts, context parallelism, FP8, μP.
std::optional<std::string> not_planned(std::string_view word);
// The candidate with the fewest edits from `word`; candidates must not be empty.
std::string nearest(std::string_view word, std::span<const std::string> candidates);
// What is wrong with an unknown key of a section, and what to write instead.
std::string unknown_key(std::string_view section, std::string_view key);

// docs/configuration.md.
std::string configuration_reference();

}  // namespace offramp
