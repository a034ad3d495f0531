// Subnets and spaces of them (models/subnet.h) as JSON, of users and of files:
//
//   const Subnet small = parse_subnet(R"({"num_hidden_layers": 4, "intermediate_size": 172})");   // what is not named is the whole's
//   manifest["supernet"] = to_json(space);    // {"num_hidden_layers": [4, 6, 8], "intermediate_size": [172, 344, 688]}
#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "models/subnet.h"

namespace offramp {

// Throws Error(Exit::configuration): what is wrong, and the sizes that there are.
Subnet parse_subnet(const std::string& text);

nlohmann::ordered_json to_json(const Space& space);
// Throws JsonProblem (checkpoint/json_file.h) where it is none: sizes that are no subnet's, choices that do not ascend.
Space read_space(const nlohmann::json& json);

}  // namespace offramp
