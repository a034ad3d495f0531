// Which part of every tensor each tensor rank holds, and with what initial values.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "models/flat.h"
#include "rig.h"

namespace offramp::testing {
namespace {

constexpr std::int64_t kGroups = 8, kWidth = 1024;  // of 4 ranks each has 2 groups and 4 blocks of 64 columns

// Exits of every kind, sizes that four ranks share: GPT-2's heads are groups of one.
ModelConfig wide_config(const std::string& architecture) {
  ModelConfig config = tiny_config();
  config.architecture = architecture;
  config.hidden_size = 64;
  config.num_key_value_heads = kGroups;
  config.num_attention_heads = config.gpt2() ? kGroups : 2 * kGroups;
  config.intermediate_size = kWidth;
  return config;
}

Model part_of(const ModelConfig& config, int rank, int size) {
  return build_model(config, every_exit(), {.tensor = {Group::planned(rank, size, Wire::tensor)}});
}

std::vector<Parameter*> parameters_of(Model& model) {
  std::vector<Parameter*> all;
  const Visitor add = [&](Parameter& p) { all.push_back(&p); };
  for (Unit& unit : model.units) unit.module->visit(add);
  for (Head& head : model.heads) head.visit(add);
  return all;
}

// Each element of a piece, in its parameter and in its logical tensor.
void each(const Piece& piece, const std::function<void(std::int64_t local, std::int64_t global)>& visit) {
  runs(piece, [&](const Run& run) {
    for (std::int64_t i = 0; i < run.count; ++i) visit(run.local + i, run.global + i);
  });
}

bool names_any(const std::string& name, std::initializer_list<const char*> parts) {
  return std::any_of(parts.begin(), parts.end(), [&](const char* part) { return name.find(part) != std::string::npos; });
}

class Split : public ::testing::TestWithParam<std::tuple<const char*, int>> {
 protected:
  ModelConfig config = wide_config(std::get<0>(GetParam()));
  int size = std::get<1>(GetParam());
};
INSTANTIATE_TEST_SUITE_P(All, Split, ::testing::Combine(::testing::Values("llama", "gpt2"), ::testing::Values(1, 2, 4)),
                         [](const auto& p) { return std::string(std::get<0>(p.param)) + "_" + std::to_string(std::get<1>(p.param)); });

TEST_P(Split, EveryElementIsHeldOnce) {
  std::vector<std::map<std::string, std::vector<int>>> held;  // by parameter and logical tensor: how many ranks hold each element
  std::vector<bool> replicated;
  for (int rank = 0; rank < size; ++rank) {
    Model model = part_of(config, rank, size);
    const std::vector<Parameter*> parameters = parameters_of(model);
    held.resize(parameters.size()), replicated.resize(parameters.size());
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const Parameter& p = *parameters[i];
      std::vector<int> local(static_cast<std::size_t>(p.shape.elements()));
      for (const Piece& piece : p.pieces) {
        std::vector<int>& global = held[i][piece.name];
        global.resize(static_cast<std::size_t>(piece.global.elements()));
        each(piece, [&](std::int64_t at, std::int64_t element) {
          ++local.at(static_cast<std::size_t>(at));
          ++global.at(static_cast<std::size_t>(element));
        });
      }
      EXPECT_EQ(local, std::vector<int>(local.size(), 1)) << p.name();
      EXPECT_TRUE(rank == 0 || replicated[i] == p.replicated) << p.name();
      replicated[i] = p.replicated;
    }
  }
  for (std::size_t i = 0; i < held.size(); ++i)
    for (const auto& [name, global] : held[i]) EXPECT_EQ(global, std::vector<int>(global.size(), replicated[i] ? size : 1)) << name;
}

// Norms, biases behind a sum over ranks, and learned positions; of one rank nothing is.
TEST_P(Split, WhatIsReplicated) {
  Model model = part_of(config, 0, size);
  int count = 0;
  for (const Parameter* p : parameters_of(model)) {
    const bool expected = names_any(p->name(), {"norm", "ln_", "c_proj.bias", "wpe"});
    EXPECT_EQ(p->replicated, expected && size > 1) << p->name();
    count += expected;
  }
  // Norms of 5 layers, 4 exits (all but the bare one), the final head, and 1 + 2 + 1 in the exits' bodies; GPT-2's have biases, as have
  // 10 outputs of the layers and 1 + 2 + 1 of the exits, and it has positions.
  EXPECT_EQ(count, config.gpt2() ? 2 * 19 + 14 + 1 : 19);
}

// The axis that is dealt out: of a logical tensor and of a parameter that holds it, where each element stands along it.
struct Along {
  std::int64_t width, step;  // elements of the axis, and of one of its steps
  bool first_half(std::int64_t element) const { return element / step % width < width / 2; }
};
Along rows_of(const Shape& shape) { return {shape[0], shape.elements() / shape[0]}; }
Along columns_of(const Shape& shape) { return {shape[1], 1}; }

void expect_prefix(const Parameter& p, const Piece& piece, Along (*axis)(const Shape&)) {
  std::int64_t inside = 0;
  each(piece, [&](std::int64_t local, std::int64_t global) {
    const bool first = axis(piece.global).first_half(global);
    inside += first;
    ASSERT_EQ(axis(p.shape).first_half(local), first) << piece.name << ": " << local << " holds " << global;
  });
  EXPECT_EQ(2 * inside, piece.elements()) << piece.name;
}

// Half of the groups, and half of the MLP's columns. (One rank has the gate as a single block, and all of up behind it.)
TEST_P(Split, HalfOfTheModelIsAPrefixOnEveryRank) {
  for (int rank = 0; rank < size; ++rank) {
    Model model = part_of(config, rank, size);
    std::set<std::string> seen;
    for (const Parameter* p : parameters_of(model))
      for (const Piece& piece : p->pieces) {
        const bool outputs =
            names_any(piece.name, {"q_proj", "k_proj", "v_proj", "c_fc"}) || (size > 1 && names_any(piece.name, {"gate_proj", "up_proj"}));
        const bool inputs = names_any(piece.name, {"o_proj.weight", "c_proj.weight", "down_proj.weight"});
        if (!outputs && !inputs) continue;
        expect_prefix(*p, piece, outputs ? rows_of : columns_of);
        seen.insert(piece.name);
      }
    // 5 layers, exits with an MLP, a block and an attention. GPT-2: 6 matrices and 4 biases a layer, 2 and 1 of them the MLP's.
    EXPECT_EQ(seen.size(), config.gpt2() ? 5u * 10 + 3 + 10 + 7 : size > 1 ? 5u * 7 + 3 + 7 + 4 : 5u * 5 + 1 + 5 + 4);
  }
}

// Every rank's values, put together by pieces.
std::map<std::string, std::vector<float>> initial(const ModelConfig& config, int size) {
  std::map<std::string, std::vector<float>> all;
  for (int rank = 0; rank < size; ++rank) {
    Model model = part_of(config, rank, size);
    for (const Parameter* p : parameters_of(model)) {
      std::vector<float> memory(static_cast<std::size_t>(p->shape.elements()));
      initialize(*p, Tensor(memory.data(), p->shape, DType::f32), 5);
      for (const Piece& piece : p->pieces) {
        auto& tensor = all[piece.name];
        tensor.resize(static_cast<std::size_t>(piece.global.elements()), NAN);
        each(piece, [&](std::int64_t local, std::int64_t global) {
          tensor[static_cast<std::size_t>(global)] = memory[static_cast<std::size_t>(local)];
        });
      }
    }
  }
  return all;
}

TEST_P(Split, InitialValuesAreTheSameAtEveryDegree) { EXPECT_EQ(initial(config, size), initial(config, 1)); }

TEST(VocabularyRange, CoversAnyVocabulary) {
  for (int size = 1; size <= 8; ++size)
    for (std::int64_t vocabulary = 2; vocabulary <= 300; ++vocabulary) {
      SCOPED_TRACE(std::to_string(vocabulary) + " over " + std::to_string(size));
      std::int64_t end = 0;
      for (int rank = 0; rank < size; ++rank) {
        const VocabularyRange range = vocabulary_range(vocabulary, {Group::planned(rank, size, Wire::tensor)});
        ASSERT_EQ(range.first, end);
        const std::int64_t granule = vocabulary >= 64 * size ? 16 : 1;
        EXPECT_TRUE(range.first % granule == 0);
        EXPECT_LT(std::abs(range.count * size - vocabulary), granule * size) << "an even part, but for a granule";
        EXPECT_TRUE(range.count > 0 || vocabulary < size);
        end += range.count;
      }
      EXPECT_EQ(end, vocabulary);
    }
}

TEST(BlockOf, AreAsWideAsTheyMayBeAndEvenlyDealtOut) {
  for (int size = 1; size <= 8; ++size)
    for (std::int64_t part = 1; part <= 300; ++part) {
      const std::int64_t block = block_of(part * size, size);
      if (size == 1) {
        EXPECT_EQ(block, part);
        continue;
      }
      EXPECT_EQ(part % block, 0) << part;
      EXPECT_LE(block, 64);
      EXPECT_EQ(block % 16 == 0, part % 16 == 0) << part;
      const std::int64_t step = part % 16 == 0 ? 16 : 1;  // whole vectors, where they divide it
      for (std::int64_t wider = block + step; wider <= std::min<std::int64_t>(part, 64); wider += step) EXPECT_NE(part % wider, 0) << part;
    }
  EXPECT_THROW(block_of(10, 4), Error);
}

// As wide as they may be where a narrower pass uses whole ones of every rank.
TEST(BlockOf, DivideEveryWidth) {
  const std::vector<std::int64_t> quarters{172, 344, 516, 688}, odd{6, 10};
  EXPECT_EQ(block_of(688, 1, quarters), 172);
  EXPECT_EQ(block_of(688, 2, quarters), 43);
  EXPECT_EQ(block_of(1024, 2, std::vector<std::int64_t>{256, 512}), 64);
  EXPECT_EQ(block_of(1024, 2, std::vector<std::int64_t>{1024}), block_of(1024, 2));
  EXPECT_EQ(block_of(30, 1, odd), 2);
  EXPECT_EQ(block_of(30, 2, odd), 1);
  EXPECT_THROW(block_of(688, 8, quarters), Error);
}

}  // namespace
}  // namespace offramp::testing
