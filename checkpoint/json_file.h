// JSON that somebody else wrote: an object, each key once, no deeper than any of ours. What is wrong comes as a JsonProblem, so that
// each reader says in its own words which file is unsound.
//
//   const nlohmann::json header = parse_object(text);        // throws JsonProblem
//   const nlohmann::json config = read_json("config.json");  // throws Error(Exit::checkpoint)
#pragma once
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

namespace offramp {

struct JsonProblem : std::runtime_error {
  using std::runtime_error::runtime_error;  // "is no JSON: ..."
};

nlohmann::json parse_object(const std::string& text);

// A file of at most 100 MB.
nlohmann::json read_json(const std::string& path);

}  // namespace offramp
