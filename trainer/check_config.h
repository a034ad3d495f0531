// Combinations of valid values that cannot work together. Pure functions: a Config in, problems out, each with the place to blame.
//
//   check_config(located.config, std::nullopt, located.at, {}, problems);   // world size unknown
#pragma once
#include <map>
#include <optional>
#include <set>
#include <string>

#include "trainer/config.h"
#include "trainer/yaml_tree.h"

namespace offramp {

// Where each key of a Config was written, by path: "training.steps", "exits.0.layer".
struct Locations {
  Place root;
  std::map<std::string, Place, std::less<>> places;
  bool given(std::string_view path) const { return places.find(path) != places.end(); }  // the user wrote this key
  Place where(std::string_view path) const;  // of the key, or of the closest thing around it that was written
};

// `unknown`: paths whose values are missing or wrong; what depends on them is not judged.
void check_config(const Config& config, std::optional<int> world_size, const Locations& at, const std::set<std::string>& unknown,
                  Problems& problems);

// Defaults of a supernet's keys, which follow from others. Before it is checked.
void settle_supernet(Config& config, const Locations& at, const std::set<std::string>& unknown);

// Of these what concerns the model and its exits alone, all of whose required keys are there.
void check_model(const Config& config, Problems& problems);

}  // namespace offramp
