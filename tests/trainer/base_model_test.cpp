#include "trainer/base_model.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/checkpoint/small_export.h"
#include "tests/files.h"
#include "trainer/yaml.h"

namespace offramp::testing {
namespace {

class BaseModelTest : public ::testing::Test {
 protected:
  void SetUp() override { write_export(directory_ / "hf", small_model(), all_exits(), 1.0f); }

  // Of a job that says this of its model besides where it comes from, and of its first exit's head.
  std::string job(const std::string& keys, const std::string& head = "mlp") const {
    const std::string path = directory_ / "job.yaml";
    write_bytes(path, fmt::format(R"(model: {{from: '{}/hf'{}}}
exits: [{{layer: 1, head: {}, norm: shared, loss_weight: 1}}, {{layer: 2, head: bare, init: final, loss_weight: 1}}]
training: {{sequence_length: 8, micro_batch_size: 1, global_batch_size: 2, steps: 1}}
optimizer: {{lr: 0.1}}
data: {{train: some}}
)", directory_.path(), keys, head));
    return path;
  }
  Config read(const std::string& path) const { return read_config(path, {}); }
  std::string refusal(const std::string& path) const {
    try {
      read(path);
    } catch (const Error& e) {
      EXPECT_EQ(e.code, Exit::configuration);
      return e.what();
    }
    return "";
  }

  TemporaryDirectory directory_;
};

TEST_F(BaseModelTest, GivesWhatIsNotSaid) {
  const Config config = read(job(""));
  EXPECT_EQ(config.model, small_model());
  EXPECT_EQ(config.exits[0].init, ExitInit::base);
  EXPECT_EQ(config.exits[1].init, ExitInit::final_head);
  const Config other = read(job(", hidden_size: 24, hidden_dropout: 0.5"));
  EXPECT_EQ(other.model.hidden_dropout, 0.5);
  EXPECT_EQ(other.model.max_position_embeddings, 32);
  EXPECT_TRUE(BaseModel(directory_ / "hf").is(other.model));
}

TEST_F(BaseModelTest, PrintsWhatReadsBack) {
  const std::string printed = print_config(read(job(", hidden_dropout: 0.5")));
  write_bytes(directory_ / "printed.yaml", printed);
  EXPECT_EQ(print_config(read(directory_ / "printed.yaml")), printed);
  EXPECT_NE(printed.find("  hidden_size: 24\n"), std::string::npos) << printed;
}

TEST_F(BaseModelTest, IsNotContradicted) {
  const std::string wrong = refusal(job(", hidden_size: 48, rope_theta: 10000.0", "norm"));
  EXPECT_NE(wrong.find("job.yaml:1:"), std::string::npos) << wrong;
  EXPECT_NE(wrong.find("model.hidden_size: is 48, but the model of"), std::string::npos) << wrong;
  EXPECT_NE(wrong.find("has 24; remove this key"), std::string::npos) << wrong;
  EXPECT_NE(wrong.find("model.rope_theta: is 10000.0"), std::string::npos) << wrong;
  EXPECT_NE(wrong.find("exits.0.head: is norm, but the exit of"), std::string::npos) << wrong;
  EXPECT_EQ(refusal(job(", rms_norm_eps: 1.0e-6")), "");
}

TEST_F(BaseModelTest, OfAnExitAnewNothingIsAsked) {
  EXPECT_NE(refusal(job("", "block")).find("init: random, final or copy_layer"), std::string::npos);
  EXPECT_EQ(refusal(job("", "block, init: random")), "");
}

}  // namespace
}  // namespace offramp::testing
