// What a manifest remembers of a configuration, and the model that it says its tensors are of.
#include <algorithm>
#include <set>

#include "checkpoint/manifest.h"
#include "tensor/check.h"
#include "trainer/check_config.h"
#include "trainer/resume.h"
#include "trainer/schema.h"

namespace offramp {

std::map<std::string, std::string> remembered(const Config& config) {
  std::map<std::string, std::string> all;
  constexpr std::string_view kExits = "exits[].";
  for (const SchemaKey& key : schema()) {
    if (!key.means_something(config)) continue;
    if (!key.path.starts_with(kExits)) {
      all[std::string(key.path)] = print_value(key, config, 0);
      continue;
    }
    for (std::size_t e = 0; e < config.exits.size(); ++e)
      all[fmt::format("exits.{}.{}", config.exits[e].layer, key.path.substr(kExits.size()))] = print_value(key, config, e);
  }
  return all;
}

// How a job computed, which leaves open what its model is: where one of these is unsound, its default holds.
constexpr std::string_view kComputed[] = {"training.sequence_length", "training.micro_batch_size", "training.precision", "training.threads",
                                          "data.document_mask"};

Config model_of(const Manifest& manifest) {
  Config config;
  Problems problems, passed_over;
  std::set<int> layers;
  const auto take = [&](const SchemaKey& key, const std::string& name, std::size_t exit, Problems& wrong) {
    const auto it = manifest.configuration.find(name);
    if (it == manifest.configuration.end()) return;
    const YamlNode node = parse_yaml(it->second, {.source = name}, wrong);
    assign(key, config, exit, node, wrong);
  };
  for (const auto& [name, value] : manifest.configuration)
    if (name.starts_with("exits.") && name.ends_with(".layer")) layers.insert(std::atoi(value.c_str()));
  config.exits.resize(layers.size());
  for (const SchemaKey& key : schema()) {
    if (key.path.starts_with("model.") && key.path != "model.from") take(key, std::string(key.path), 0, problems);
    if (std::ranges::count(kComputed, key.path) > 0) take(key, std::string(key.path), 0, passed_over);
    if (!key.path.starts_with("exits[].")) continue;
    std::size_t exit = 0;
    for (const int layer : layers) take(key, fmt::format("exits.{}.{}", layer, key.path.substr(8)), exit++, problems);
  }
  const auto missing = [&](std::string_view path) { return !manifest.configuration.contains(std::string(path)); };
  for (const SchemaKey& key : schema())
    if (key.path.starts_with("model.") && key.required(config) && missing(key.path)) problems.push_back({Place{}, std::string(key.path)});
  for (const ExitSpec& exit : config.exits)
    if (exit.layer == 0) problems.push_back({Place{}, "exits"});
  if (problems.empty()) check_model(config, problems);
  if (!problems.empty()) fail(Exit::checkpoint, "the checkpoint of step {} does not say which model it is of", manifest.step);
  config.model.set_head_size(config.model.head_size());
  return config;
}

}  // namespace offramp
