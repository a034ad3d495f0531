// Subnets and spaces as JSON: what users write, and what manifests hold.
#include "checkpoint/subnet_json.h"

#include <gtest/gtest.h>

#include "checkpoint/json_file.h"
#include "checkpoint/manifest.h"
#include "tests/checkpoint/small_export.h"
#include "tests/files.h"

namespace offramp::testing {
namespace {

std::string refused(const std::string& text) {
  try {
    parse_subnet(text);
  } catch (const Error& error) {
    EXPECT_EQ(error.code, Exit::configuration);
    return error.what();
  }
  return "nothing was thrown";
}

TEST(SubnetJson, ReadsWhatItPrints) {
  const Subnet subnet{
      .num_hidden_layers = 4, .hidden_size = 32, .intermediate_size = 172, .num_key_value_heads = 2, .queries_per_group = 1};
  EXPECT_EQ(parse_subnet(to_text(subnet)), subnet);
  EXPECT_EQ(parse_subnet("{}"), Subnet{});
}

TEST(SubnetJson, SaysWhatIsWrong) {
  for (const auto& [text, what] : {std::pair{"", "is no JSON object"},
                                   {"4", "is no JSON object"},
                                   {"{", "is no JSON"},
                                   {R"({"hidden_size":4,"hidden_size":4})", "stands twice"},
                                   {R"({"num_attention_heads":4})", "its sizes are num_hidden_layers, hidden_size, intermediate_size"},
                                   {R"({"hidden_size":0})", "hidden_size is 0"},
                                   {R"({"hidden_size":-4})", "wanted a whole number"},
                                   {R"({"hidden_size":1e30})", "wanted a whole number"},
                                   {R"({"hidden_size":"4"})", "hidden_size is \"4\""}})
    EXPECT_NE(refused(text).find(what), std::string::npos) << text << ": " << refused(text);
}

TEST(SpaceJson, ManifestsHoldIt) {
  Manifest m{.step = 3};
  EXPECT_EQ(to_json(m).find("supernet"), std::string::npos);
  EXPECT_TRUE(parse_manifest("m", to_json(m)).supernet.empty());
  m.supernet = {.num_hidden_layers = {2, 3}, .intermediate_size = {10, 20, 40}};
  EXPECT_EQ(parse_manifest("m", to_json(m)).supernet, m.supernet);
}

TEST(SpaceJson, DamagedManifestsAreRefused) {
  for (const Space& space : {Space{.hidden_size = {8, 8}}, Space{.hidden_size = {9, 8}}, Space{.hidden_size = {0, 8}}}) {
    const std::string text = to_json(Manifest{.supernet = space});
    EXPECT_NE(checkpoint_error([&] { parse_manifest("m", text); }).find("do not ascend"), std::string::npos) << text;
  }
  for (const char* json : {R"({"depth": [1]})", R"({"hidden_size": 4})", R"({"hidden_size": []})", R"({"hidden_size": [1.5]})",
                           R"({"hidden_size": [4294967296]})", "[]"})
    EXPECT_THROW(read_space(nlohmann::json::parse(json)), JsonProblem) << json;
}

}  // namespace
}  // namespace offramp::testing
