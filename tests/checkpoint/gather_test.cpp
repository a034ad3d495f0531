// What comes out of a running job's ranks, against the initial values that every element has by its name and place.
#include "checkpoint/gather.h"

#include <gtest/gtest.h>

#include <numeric>

#include "checkpoint/export_entry.h"
#include "tests/parallel/small_job.h"

namespace offramp {
namespace {

constexpr std::uint64_t kSeed = 1234;
constexpr double kDeviation = 0.2;  // of matrices that do not write to the residual stream

ModelConfig small_model() {
  ModelConfig model = testing::small_job({}, true).options.model;
  model.num_hidden_layers = 2;
  model.num_key_value_heads = model.num_attention_heads;  // q, k, v of one size
  return model;
}

// Runs `check` on every rank of a job.
void on_ranks(testing::SmallJob job, const std::function<void(Machine&)>& check) {
  job.options.microbatches = 2;
  run_in_process(
      job.degrees().world(),
      [&](Group world) {
        const MemoryPlan plan = plan_memory(job.options, Mesh::planned(world.rank(), job.degrees()));
        Machine machine(job.options, Mesh(world, job.degrees()), Backing::host, plan.peak, [world] { world.progress(); });
        machine.flat().initialize(machine.context(), kSeed);
        check(machine);
      },
      job.sends);
}

void on_two_stages(const ModelConfig& model, const std::function<void(Machine&)>& check) {
  testing::SmallJob job = testing::small_job({}, true);
  job.options.model = model;
  job.pipeline = 2;
  on_ranks(job, check);
}

float initial(const std::string& name, std::int64_t element) {
  return static_cast<float>(kDeviation * static_cast<double>(normal({kSeed, Use::init, hash(name)}, static_cast<std::uint64_t>(element))));
}

std::vector<float> initial_transposed(const std::string& name, std::int64_t rows, std::int64_t columns) {
  std::vector<float> values;
  for (std::int64_t i = 0; i < rows * columns; ++i) values.push_back(initial(name, i % rows * columns + i / rows));
  return values;
}

std::vector<float> copy_of(std::span<const float> values) { return {values.begin(), values.end()}; }

// What gather_entry() hands out on this rank, and in how many calls.
std::pair<std::vector<float>, int> gathered(Gatherer& gatherer, const ExportEntry& entry) {
  std::pair<std::vector<float>, int> all;
  gather_entry(gatherer, entry, [&](std::span<const float> values) {
    all.first.insert(all.first.end(), values.begin(), values.end());
    ++all.second;
  });
  return all;
}

TEST(Gatherer, PartsAndColumnsOfAnyStage) {
  on_two_stages(small_model(), [](Machine& machine) {
    Gatherer gatherer(machine);
    const bool first = machine.mesh().world_rank() == 0;
    for (const std::string layer : {"0", "1"}) {                                      // of either stage
      const std::string name = "model.layers." + layer + ".self_attn.k_proj.weight";  // one of three pieces of its parameter
      const auto values = copy_of(gatherer.gather(name, 40, 100));
      ASSERT_EQ(values.size(), first ? 100 : 0);
      for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], initial(name, 40 + static_cast<std::int64_t>(i)));
      const auto columns = copy_of(gatherer.gather_columns(name, 3, 7));
      ASSERT_EQ(columns.size(), first ? 7 * 32 : 0);
      const auto transposed = initial_transposed(name, 32, 32);
      EXPECT_TRUE(std::equal(columns.begin(), columns.end(), transposed.begin() + 3 * 32));
    }
    EXPECT_ANY_THROW(gatherer.gather_columns("model.norm.weight", 0, 1));
    EXPECT_ANY_THROW(gatherer.gather("lm_head.weight", 0, 1));  // tied
  });
}

TEST(GatherEntry, OneAsItIsOrTransposed) {
  on_two_stages(small_model(), [](Machine& machine) {
    Gatherer gatherer(machine);
    const std::string name = "model.layers.1.mlp.up_proj.weight";  // [48, 32]
    auto [plain, calls] = gathered(gatherer, {{"a", {48, 32}}, {name}});
    auto [transposed, more_calls] = gathered(gatherer, {{"b", {32, 48}}, {name}, true});
    EXPECT_EQ(calls, 1);
    EXPECT_EQ(more_calls, 1);
    if (machine.mesh().world_rank() != 0) {
      EXPECT_TRUE(plain.empty() && transposed.empty());
      return;
    }
    ASSERT_EQ(plain.size(), 48u * 32u);
    for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_EQ(plain[i], initial(name, static_cast<std::int64_t>(i)));
    EXPECT_EQ(transposed, initial_transposed(name, 48, 32));
  });
}

TEST(GatherEntry, SeveralSideBySide) {
  on_two_stages(small_model(), [](Machine& machine) {
    Gatherer gatherer(machine);
    const std::string prefix = "model.layers.1.self_attn.";
    const std::vector<std::string> names = {prefix + "q_proj.weight", prefix + "k_proj.weight", prefix + "v_proj.weight"};
    const auto values = gathered(gatherer, {{"c_attn", {32, 96}}, names, true}).first;
    const auto norms = gathered(gatherer, {{"two", {64}}, {"model.norm.weight", "model.layers.0.input_layernorm.weight"}});
    if (machine.mesh().world_rank() != 0) return;
    ASSERT_EQ(values.size(), 32u * 96u);
    for (std::int64_t i = 0; i < 32 * 96; ++i) {
      const std::int64_t row = i / 96, column = i % 96;  // q, k, v of 32 columns each
      EXPECT_EQ(values[static_cast<std::size_t>(i)], initial(names[static_cast<std::size_t>(column / 32)], column % 32 * 32 + row));
    }
    EXPECT_EQ(norms.first, std::vector<float>(64, 1.0f));
    EXPECT_EQ(norms.second, 2);
  });
}

// Every tensor of a model as one rank alone begins with it.
struct Tensors {
  explicit Tensors(const MachineOptions& options) {
    Model model = build_model(options.model, options.exits);
    const Visitor read = [this](Parameter& p) {
      std::vector<float> memory(static_cast<std::size_t>(p.shape.elements()));
      initialize(p, Tensor(memory.data(), p.shape, DType::f32), kSeed);
      for (const Piece& piece : p.pieces) {
        shapes[piece.name] = piece.global;
        values[piece.name].resize(static_cast<std::size_t>(piece.global.elements()));
        runs(piece, [&](const Run& run) { std::copy_n(memory.begin() + run.local, run.count, values[piece.name].begin() + run.global); });
      }
    };
    for (Unit& unit : model.units) unit.module->visit(read);
    for (Head& head : model.heads) head.visit(read);
  }
  std::map<std::string, std::vector<float>> values;
  std::map<std::string, Shape> shapes;
};

// Asks for `count` at a time of all there are.
using Ask = std::function<std::span<const float>(std::int64_t first, std::int64_t count)>;
std::vector<float> in_parts(std::int64_t all, std::int64_t count, const Ask& ask) {
  std::vector<float> values;
  for (std::int64_t first = 0; first < all; first += count) {
    const auto part = ask(first, std::min(count, all - first));
    values.insert(values.end(), part.begin(), part.end());
  }
  return values;
}

void check_everything(Machine& machine, const Tensors& expected) {
  Gatherer gatherer(machine);
  const bool first = machine.mesh().world_rank() == 0;
  for (const auto& [name, tensor] : expected.values) {
    const Shape& shape = expected.shapes.at(name);
    const auto elements = in_parts(shape.elements(), 333, [&](auto at, auto count) { return gatherer.gather(name, at, count); });
    EXPECT_EQ(elements, first ? tensor : std::vector<float>{}) << name;
    if (shape.rank < 2) continue;
    std::vector<float> transposed;
    for (std::size_t i = 0; first && i < tensor.size(); ++i) {
      const auto rows = static_cast<std::size_t>(shape[0]), columns = static_cast<std::size_t>(shape[1]);
      transposed.push_back(tensor[i % rows * columns + i / rows]);
    }
    EXPECT_EQ(in_parts(shape[1], 7, [&](auto at, auto count) { return gatherer.gather_columns(name, at, count); }), transposed) << name;
  }
}

// In full precision, whoever holds it: of bf16 weights the masters, which may be another data rank's.
TEST(Gatherer, EveryTensorFromAnyLayout) {
  for (const char* architecture : {"llama", "gpt2"}) {
    testing::SmallJob job = testing::small_job(testing::exits_of_every_kind(), true, architecture);
    const Tensors expected(job.options);
    // 8 layers of 9 or 16, embeddings and final norm, exits of 1, 5 or 7, 10 or 18, 7 or 13 and 1 or 2 tensors of their own.
    EXPECT_EQ(expected.shapes.size(), job.options.model.gpt2() ? 173u : 98u);
    for (const Degrees& degrees : {Degrees{4, 1, 1}, Degrees{2, 2, 1}, Degrees{2, 1, 2}, Degrees{1, 2, 2}, Degrees{2, 2, 2}})
      for (const DType precision : {DType::f32, DType::bf16})
        for (const bool shard_state : {false, true}) {
          job.tensor = degrees.tensor, job.pipeline = degrees.pipeline, job.data = degrees.data;
          job.options.precision = precision, job.options.shard_state = shard_state, job.options.split_heads = shard_state;
          SCOPED_TRACE(job.text());
          on_ranks(job, [&](Machine& machine) { check_everything(machine, expected); });
        }
  }
}

// After an update what comes back is what was updated.
TEST(Gatherer, UpdatedMasters) {
  testing::SmallJob job = testing::small_job({}, false, "gpt2");
  job.tensor = job.data = 2;
  job.options.precision = DType::bf16, job.options.shard_state = true;
  on_ranks(job, [](Machine& machine) {
    const Tensors before(machine.options());
    for (const Range& kept : machine.flat().kept()) {
      float* exact = machine.flat().exact(kept).as<float>();
      for (std::int64_t i = 0; i < kept.count(); ++i) exact[i] *= 2;
    }
    Gatherer gatherer(machine);
    for (const auto& [name, tensor] : before.values) {
      const auto after = copy_of(gatherer.gather(name, 0, static_cast<std::int64_t>(tensor.size())));
      for (std::size_t i = 0; i < after.size(); ++i) ASSERT_EQ(after[i], 2 * tensor[i]) << name << " " << i;
    }
  });
}

// More than Gatherer::kMost elements: in blocks.
TEST(GatherEntry, LargeOnesInBlocks) {
  ModelConfig model = small_model();
  model.vocab_size = 200000;
  on_two_stages(model, [&](Machine& machine) {
    Gatherer gatherer(machine);
    const std::string name = "model.embed_tokens.weight";
    const auto plain = gathered(gatherer, {{"a", {200000, 32}}, {name}}),
               transposed = gathered(gatherer, {{"b", {32, 200000}}, {name}, true});
    EXPECT_EQ(plain.second, 2);
    EXPECT_EQ(transposed.second, 2);
    if (machine.mesh().world_rank() != 0) return;
    ASSERT_EQ(transposed.first.size(), plain.first.size());
    for (std::size_t row = 0; row < 200000; row += 999) {
      for (std::size_t column = 0; column < 32; ++column) {
        const float expected = initial(name, static_cast<std::int64_t>(row * 32 + column));
        EXPECT_EQ(plain.first[row * 32 + column], expected);
        EXPECT_EQ(transposed.first[column * 200000 + row], expected);
      }
    }
  });
}

}  // namespace
}  // namespace offramp
