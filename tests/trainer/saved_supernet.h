// A once-for-all model of random weights, saved without training, and samples to look at it with: what tests of eval and search share.
#pragma once
#include <gtest/gtest.h>

#include <string>

#include "checkpoint/publish.h"
#include "checkpoint/state.h"
#include "data/indexed.h"
#include "tests/checkpoint/numbered_source.h"
#include "tests/checkpoint/small_export.h"
#include "tests/files.h"
#include "trainer/resume.h"

namespace offramp::testing {

inline constexpr std::int64_t kSamples = 5, kSequence = 12;  // samples: not a multiple of microbatches

inline const Space kSpace = {.num_hidden_layers = {1, 2, 3},
                             .hidden_size = {16, 24},
                             .intermediate_size = {20, 30, 40},
                             .num_key_value_heads = {1, 2},
                             .queries_per_group = {1, 2, 3}};

// Weights that make heads disagree.
inline float weight(const TensorOfKind& tensor, std::int64_t i) {
  const float n = numbered(tensor.tensor, i);
  return tensor.shape.rank == 1 ? 1 + 0.1f * n : 0.3f * n;
}

class SavedSupernet : public ::testing::Test {
 protected:
  SavedSupernet() {
    config_.model = small_model();
    config_.exits = {{.layer = 1, .head = HeadKind::mlp, .shared_output = true}, {.layer = 2, .head = HeadKind::block}};
    config_.training.sequence_length = kSequence, config_.training.micro_batch_size = 2;
    save("saved", kSpace);
    save("plain", {});
    write_tokens();
  }

  void save(const std::string& name, const Space& space) {
    Manifest head{.run_id = "test", .step = 7, .configuration = remembered(config_), .supernet = space};
    std::vector<TensorOfKind> tensors;
    for (const TensorEntry& entry : NumberedSource(config_.model, config_.exits).entries())
      tensors.push_back({kWeights, entry.name, entry.shape});
    const auto read = [](const TensorOfKind& tensor, const Box& box, float* out) {
      const std::int64_t columns = matrix_of(tensor.shape).columns;
      for (std::int64_t i = 0; i < box.elements(); ++i) out[i] = weight(tensor, box.row * columns + i);
    };
    write_checkpoint(at(name), head, tensors, read);
  }

  void write_tokens() {
    std::vector<std::int32_t> tokens;
    for (std::int64_t i = 0; i < 200; ++i) tokens.push_back(static_cast<std::int32_t>(i * i * 7 % 50));
    IndexedWriter writer(at("tokens"), TokenType::u16);
    writer.append(tokens);
    writer.end_document();
    writer.finish();
    writer.publish();
  }

  std::string at(const std::string& name) const { return directory_ / name; }

  TemporaryDirectory directory_;
  Config config_;
};

}  // namespace offramp::testing
