// Channels in order of importance: the whole model and its training stay what they are, and every layout comes to the same bits.
#include "checkpoint/sort_channels.h"

#include "models/channels.h"
#include "saved_job.h"
#include "tests/files.h"

namespace offramp::testing {
namespace {

struct Layout {
  int tensor = 1, pipeline = 1, data = 1;
  bool sharded = false, rows_split = false;
  int stages = 1;  // a rank
};
constexpr Layout kLayouts[] = {{1, 1, 1},
                               {2, 1, 1},
                               {4, 1, 1, false, true},
                               {1, 2, 1},
                               {1, 4, 1},
                               {1, 1, 2},
                               {1, 1, 2, true},
                               {2, 2, 1},
                               {2, 1, 2, true},
                               {1, 2, 2, true},
                               {2, 2, 2},
                               {2, 2, 2, true, true},
                               {1, 2, 1, false, false, 4}};

SmallJob job_of(const std::string& architecture, bool tied, bool bf16, const Layout& layout = {}) {
  SmallJob job = small_job(exits_of_every_kind(), tied, architecture);
  MachineOptions& options = job.options;
  ModelConfig& m = options.model;
  if (!m.gpt2()) m.num_attention_heads = 16, m.num_key_value_heads = 8, m.head_dim = 4;
  options.space = {.hidden_size = {16, 32}, .intermediate_size = {16, 48}, .num_key_value_heads = {4, 8}};
  if (!m.gpt2()) options.space.queries_per_group = {1, 2};
  job.tensor = layout.tensor, job.pipeline = layout.pipeline, job.data = layout.data;
  options.sequence_parallel = layout.rows_split;
  options.shard_state = layout.sharded;
  options.virtual_stages = layout.stages;
  if (layout.stages > 1) options.schedule = "interleaved";
  options.precision = bf16 ? DType::bf16 : DType::f32;
  job.optimizer = OptimizerConfig{.lr = 1e-2, .eps = 1e-3};
  return job;
}

// The channels of a job's model, and the numbers of a checkpoint of it: what a sort is, on whole tensors.
class Sorted {
 public:
  Sorted(const SmallJob& job, Numbers numbers) : numbers_(std::move(numbers)) {
    Model model = build_model(job.options.model, job.options.exits, {.space = job.options.space});
    all_ = elastic_channels(model);
    const Visitor note = [this](Parameter& p) {
      for (const Piece& piece : p.pieces) shapes_[piece.name] = piece.global;
    };
    for (Unit& unit : model.units) unit.module->visit(note);
    for (Head& head : model.heads) head.visit(note);
  }

  // In order of the importance that channels have now, and `others` in the same order.
  void sort(Numbers* others = nullptr) {
    for (const Channels& channels : all_) {
      const std::vector<std::int64_t> order = order_by_importance(channels, importance(channels));
      for (const ChannelPart& part : channels.parts)
        for (Numbers* numbers : {&numbers_, others})
          for (const char* kind : {"weights/", "exp_avg/", "exp_avg_sq/"})
            if (numbers && numbers->contains(kind + part.tensor)) permute(numbers->at(kind + part.tensor), part, order);
    }
  }

  // No subnet leaves out what is more important than what it has, but for rounding.
  void expect_sorted() const {
    for (const Channels& channels : all_) {
      const std::vector<double> sums = importance(channels);
      for (std::size_t c = 1; c < sums.size(); ++c) {
        const bool first = c % static_cast<std::size_t>(channels.count) == 0;  // of a segment
        EXPECT_LE(first ? 0 : sums[c], sums[c - 1] * (1 + 1e-12)) << channels.axis << " " << c;
      }
    }
  }

  const Numbers& numbers() const { return numbers_; }

 private:
  // The place of element `i` of line `line`.
  std::size_t place(const ChannelPart& part, std::size_t line, std::size_t i) const {
    const Shape& shape = shapes_.at(part.tensor);
    const auto columns = static_cast<std::size_t>(shape.rank == 2 ? shape[1] : 1);
    return part.axis == 1 ? line * columns + i : i * columns + line;
  }

  std::vector<double> importance(const Channels& channels) const {
    std::vector<double> sums(static_cast<std::size_t>(channels.segments * channels.count), 0.0);
    for (const ChannelPart& part : channels.parts) {
      const std::vector<float>& values = numbers_.at("weights/" + part.tensor);
      const std::size_t width = static_cast<std::size_t>(part.width), length = sums.size() * width;
      for (std::size_t line = 0; line < values.size() / length; ++line)
        for (std::size_t i = 0; i < length; ++i) sums[i / width] += std::abs(static_cast<double>(values[place(part, line, i)]));
    }
    return sums;
  }

  void permute(std::vector<float>& values, const ChannelPart& part, const std::vector<std::int64_t>& order) const {
    const std::vector<float> before = values;
    const std::size_t width = static_cast<std::size_t>(part.width), length = order.size() * width;
    for (std::size_t line = 0; line < values.size() / length; ++line)
      for (std::size_t i = 0; i < length; ++i)
        values[place(part, line, i)] = before[place(part, line, static_cast<std::size_t>(order[i / width]) * width + i % width)];
  }

  std::vector<Channels> all_;
  std::map<std::string, Shape> shapes_;
  Numbers numbers_;
};

class SortChannels : public ::testing::TestWithParam<std::tuple<const char*, bool, bool>> {
 protected:
  SmallJob job(const Layout& layout = {}) const {
    const auto& [architecture, tied, bf16] = GetParam();
    return job_of(architecture, tied, bf16, layout);
  }
  Numbers saved(std::int64_t step) const { return numbers_in(step_directory(directory.path(), step)); }
  // Step 2 of one rank, with its optimizer's state.
  void train_and_save() const {
    on_every_rank(job(), [&](Machine& machine, const Group& world) {
      machine.flat().initialize(machine.context(), 7);
      train_steps(machine, job(), 1, 2);
      save(machine, world, directory.path(), 2);
    });
  }
  TemporaryDirectory directory;
};
INSTANTIATE_TEST_SUITE_P(All, SortChannels, ::testing::Combine(::testing::Values("llama", "gpt2"), ::testing::Bool(), ::testing::Bool()),
                         [](const auto& all) {
                           return std::string(std::get<0>(all.param)) + (std::get<1>(all.param) ? "_tied" : "") +
                                  (std::get<2>(all.param) ? "_bf16" : "");
                         });

TEST_P(SortChannels, EveryLayoutComesToTheSameBits) {
  train_and_save();
  Sorted expected(job(), saved(2));
  expected.sort();
  expected.expect_sorted();
  EXPECT_NE(expected.numbers(), saved(2));
  std::int64_t step = 2;
  for (const Layout& layout : kLayouts) {
    ++step;
    on_every_rank(job(layout), [&](Machine& machine, const Group& world) {
      restore(machine, step_directory(directory.path(), 2));
      const std::vector<std::string> axes = sort_channels(machine);
      EXPECT_EQ(axes.size(), machine.options().model.gpt2() ? 3u : 4u);
      save(machine, world, directory.path(), step);
    });
    const Numbers found = saved(step);
    ASSERT_EQ(found.size(), expected.numbers().size());
    for (const auto& [name, values] : expected.numbers()) EXPECT_EQ(found.at(name), values) << name << " after " << job(layout).text();
  }
}

// What no checkpoint has, other ranks' copies and rounded weights, is what a machine has that loads what was sorted.
TEST_P(SortChannels, AllHoldersAgree) {
  train_and_save();
  for (const Layout& layout : {Layout{2, 1, 1}, Layout{1, 2, 2, true}, Layout{2, 2, 2}, Layout{1, 2, 1, false, false, 4}}) {
    const SmallJob here = job(layout);
    on_every_rank(here, [&](Machine& machine, const Group& world) {
      restore(machine, step_directory(directory.path(), 2));
      sort_channels(machine);
      save(machine, world, directory.path(), 3);
      train_steps(machine, here, 3, 4);
      save(machine, world, directory.path(), 4);
    });
    on_every_rank(here, [&](Machine& machine, const Group& world) {
      restore(machine, step_directory(directory.path(), 3));
      train_steps(machine, here, 3, 4);
      save(machine, world, directory.path(), 5);
    });
    EXPECT_EQ(saved(5), saved(4)) << here.text();
  }
}

// Of each exit. (Rounding may turn the best guess.)
std::vector<double> losses_of(Machine& machine) {
  std::vector<double> losses;
  for (std::int64_t i = 0; i < machine.sums().elements(); i += kLossSums) losses.push_back(machine.sums().as<double>()[i]);
  return losses;
}

// The losses of this step and the next one, and what both updates make of every weight, are those of a run that sorts nothing.
TEST_P(SortChannels, TrainingIsWhatItWas) {
  const bool bf16 = std::get<2>(GetParam());
  train_and_save();
  std::map<std::pair<bool, int>, std::vector<double>> losses;
  for (const bool sorts : {false, true})
    on_every_rank(job(), [&](Machine& machine, const Group& world) {
      restore(machine, step_directory(directory.path(), 2));
      if (sorts) sort_channels(machine);
      for (int t = 3; t <= 4; ++t) {
        train_steps(machine, job(), t, t);
        losses[{sorts, t}] = losses_of(machine);
      }
      save(machine, world, directory.path(), sorts ? 5 : 4);
    });
  const double rounding = bf16 ? 0x1p-8 : 1e-6;
  for (int t = 3; t <= 4; ++t) {
    const std::vector<double>&after = losses.at({true, t}), &before = losses.at({false, t});
    ASSERT_EQ(after.size(), before.size());
    for (std::size_t e = 0; e < after.size(); ++e) EXPECT_NEAR(after[e], before[e], rounding * before[e]) << "step " << t << " exit " << e;
  }
  Sorted sorted(job(), saved(2));
  Numbers expected = saved(4);
  sorted.sort(&expected);
  expect_close(saved(5), expected, bf16 ? 0x1p-5 : 1e-5, "after step 4");
}

// More than a window's elements.
TEST(SortChannelsOfLargeTensors, AWindowAtATime) {
  TemporaryDirectory directory;
  SmallJob job = small_job({}, true);
  job.options.model.num_hidden_layers = 1;
  job.options.model.intermediate_size = 140'032;  // x 32 elements: two windows along each axis
  job.options.space = {.hidden_size = {16, 32}, .intermediate_size = {70'016, 140'032}};
  job.options.bucket_elements = 4'000'000;
  job.options.optimizer_state = {};
  job.data = 2, job.options.shard_state = true;
  on_every_rank(job, [&](Machine& machine, const Group& world) {
    machine.flat().initialize(machine.context(), 7);
    save(machine, world, directory.path(), 1);
    sort_channels(machine);
    save(machine, world, directory.path(), 2);
  });
  Sorted expected(job, numbers_in(step_directory(directory.path(), 1)));
  expected.sort();
  EXPECT_EQ(numbers_in(step_directory(directory.path(), 2)), expected.numbers());
}

}  // namespace
}  // namespace offramp::testing
