#include "checkpoint/check_tensors.h"

#include "tests/checkpoint/numbered_source.h"
#include "tests/checkpoint/small_export.h"
#include "tests/files.h"

namespace offramp::testing {
namespace {

std::string refused(const std::vector<TensorEntry>& entries, const ModelConfig& model) {
  return checkpoint_error([&] { check_tensors(NumberedSource(entries), model, all_exits(), "here"); });
}

TEST(CheckTensors, WantsEveryTensorInItsShape) {
  const ModelConfig model = small_model();
  const std::vector<TensorEntry> sound = NumberedSource(model, all_exits()).entries();
  EXPECT_EQ(refused(sound, model), "nothing was thrown");
  for (std::size_t i = 0; i < sound.size(); ++i) {
    std::vector<TensorEntry> entries = sound;
    entries.erase(entries.begin() + static_cast<std::ptrdiff_t>(i));
    EXPECT_EQ(refused(entries, model), "here: has no tensor " + sound[i].name);
    entries = sound;
    entries[i].shape = {1, 1};
    EXPECT_NE(refused(entries, model).find(sound[i].name + " is [1, 1], by the model"), std::string::npos) << refused(entries, model);
  }
}

TEST(CheckTensors, LayersThatAreNotThereTakeNoMemory) {
  ModelConfig model = small_model();
  const std::vector<TensorEntry> entries = NumberedSource(model, all_exits()).entries();
  model.num_hidden_layers = std::int64_t{1} << 31;
  EXPECT_NE(refused(entries, model).find("there are only"), std::string::npos);
}

}  // namespace
}  // namespace offramp::testing
