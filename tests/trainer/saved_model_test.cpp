// What a manifest says of its model is taken back as it was given, and refused where it is none: whatever reads a checkpoint computes
// sizes with it.
#include <gtest/gtest.h>

#include "tests/checkpoint/small_export.h"
#include "tests/files.h"
#include "trainer/resume.h"

namespace offramp {
namespace {

Manifest saved(bool gpt2 = false) {
  Config config;
  config.model = gpt2 ? testing::small_gpt2() : testing::small_model();
  config.exits = {{.layer = 1, .head = HeadKind::mlp, .shared_norm = true}, {.layer = 2, .head = HeadKind::block}};
  return {.step = 7, .configuration = remembered(config)};
}

TEST(SavedModel, ComesBack) {
  for (const bool gpt2 : {false, true}) {
    const Config config = model_of(saved(gpt2));
    EXPECT_EQ(config.model.gpt2(), gpt2);
    EXPECT_EQ(config.model.hidden_size, gpt2 ? 20 : 24);
    ASSERT_EQ(config.exits.size(), 2u);
    EXPECT_EQ(config.exits[1].layer, 2);
    EXPECT_EQ(config.exits[1].head, HeadKind::block);
  }
}

TEST(SavedModel, SaysHowItsJobComputed) {
  Manifest m = saved();
  EXPECT_EQ(model_of(m).training.sequence_length, 0);
  m.configuration["training.sequence_length"] = "16", m.configuration["training.precision"] = "bf16";
  m.configuration["training.micro_batch_size"] = "-1";  // as if it were not there
  const Config config = model_of(m);
  EXPECT_EQ(config.training.sequence_length, 16);
  EXPECT_EQ(config.training.precision, "bf16");
  EXPECT_EQ(config.training.micro_batch_size, 0);
}

std::string refused(const std::string& key, const char* value) {
  Manifest m = saved();
  EXPECT_TRUE(m.configuration.contains(key)) << key;
  if (value) {
    m.configuration[key] = value;
  } else {
    m.configuration.erase(key);
  }
  return checkpoint_error([&] { model_of(m); });
}

TEST(SavedModel, IsRefusedWhereItIsNone) {
  for (const char* key :
       {"num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "vocab_size", "max_position_embeddings"})
    for (const char* value : {static_cast<const char*>(nullptr), "0", "-1", "18446744073709551616", "[1]", "{", ""})
      EXPECT_NE(refused(fmt::format("model.{}", key), value).find("does not say which model"), std::string::npos)
          << key << " " << (value ? value : "-");
  for (const auto& [key, value] : {std::pair{"model.num_attention_heads", "5"},  // does not divide
                                   {"model.num_key_value_heads", "4"},
                                   {"model.num_attention_heads", "24"},  // heads of size 1 cannot rotate
                                   {"exits.1.layer", "3"},               // "exits.3.layer" is not there
                                   {"exits.1.layer", "0"},
                                   {"exits.1.head", "other"},
                                   {"model.num_hidden_layers", "1"}})  // an exit beyond it
    EXPECT_NE(refused(key, value).find("does not say which model"), std::string::npos) << key << " " << value;
}

}  // namespace
}  // namespace offramp
