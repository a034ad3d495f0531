// A small model with a data-independent batch, trained for a few steps on any layout, over in-process ranks or those of a given
// world: what the tests of the machine compare.
#pragma once
#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <optional>

#include "comm/in_process.h"
#include "optim/update.h"
#include "parallel/machine.h"
#include "tensor/random.h"
#include "tests/close.h"

namespace offramp::testing {

struct SmallJob {
  MachineOptions options;
  int global_batch = 8;
  int tensor = 1, pipeline = 1, data = 1;
  Sends sends = Sends::rendezvous;
  std::optional<OptimizerConfig> optimizer;  // none: weights stay as they are
  std::vector<float> layer_rates;            // LayerSkip's, with options.layer_drop
  std::vector<Pass> passes;                  // of each step; none: one of the whole model
  bool evaluates = false;                    // an evaluation of the same batch first
  std::function<void(Machine&)> before;      // what to do with a machine that has its inputs and weights

  Degrees degrees() const { return {tensor, pipeline, data}; }
  std::string text() const {
    return fmt::format("{} tensor {}{} pipeline {} data {}{}{}{}", options.model.architecture, tensor,
                       options.sequence_parallel ? " rows split" : "", pipeline, data, options.shard_state ? " state sharded" : "",
                       options.precision == DType::bf16 ? " bf16" : "", options.model.tie_word_embeddings ? " tied" : "");
  }
};

// Sizes that four tensor ranks share.
inline SmallJob small_job(std::vector<ExitSpec> exits, bool tied, const std::string& architecture = "llama") {
  SmallJob job;
  ModelConfig& m = job.options.model;
  m.architecture = architecture;
  m.num_hidden_layers = 8;
  m.hidden_size = 32;
  m.intermediate_size = 48;
  m.num_attention_heads = 8;
  m.num_key_value_heads = m.gpt2() ? 8 : 4;
  m.vocab_size = 61;
  m.max_position_embeddings = 16;
  m.tie_word_embeddings = tied;
  m.initializer_range = 0.2;
  job.options.exits = std::move(exits);
  job.options.micro_batch_size = 1;
  job.options.sequence_length = 16;
  job.options.bucket_elements = 4000;  // several segments a stage
  job.options.optimizer_state = {"exp_avg", "exp_avg_sq"};
  job.options.seed = 5;
  return job;
}

// One exit of every kind, on the first and the last layer too, some sharing with the final head.
inline std::vector<ExitSpec> exits_of_every_kind() {
  return {{.layer = 1, .head = HeadKind::bare, .loss_weight = 0.3},
          {.layer = 2, .head = HeadKind::norm, .shared_output = true, .shared_norm = true, .loss_weight = 0.5},
          {.layer = 3, .head = HeadKind::mlp, .loss_weight = 0.25, .confidence_weights = true},
          {.layer = 5, .head = HeadKind::block, .shared_output = true, .loss_weight = 0.4},
          {.layer = 6, .head = HeadKind::attention, .loss_weight = 0.2, .detach = true},
          {.layer = 8, .head = HeadKind::norm, .shared_output = true, .loss_weight = 0.1}};
}

inline std::int32_t token(std::int64_t sample, std::int64_t i, std::int64_t vocabulary) {
  return static_cast<std::int32_t>(bits({7, Use::shuffle, 3}, static_cast<std::uint64_t>(sample * 1000 + i)) %
                                   static_cast<std::uint64_t>(vocabulary));
}

inline void fill_inputs(Machine& machine, const SmallJob& job) {
  const std::int64_t s = job.options.sequence_length, b = job.options.micro_batch_size, v = job.options.model.vocab_size;
  for (std::size_t m = 0; m < machine.inputs().size(); ++m) {
    MicrobatchInput& input = machine.inputs()[m];
    input.first_sample = (static_cast<std::int64_t>(m) * job.data + machine.mesh().at.data) * b;
    for (std::int64_t i = 0; i < b * s; ++i) {
      const std::int64_t sample = input.first_sample + i / s;
      input.ids.as<std::int32_t>()[i] = token(sample, i % s, v);
      input.labels.as<std::int32_t>()[i] = token(sample, i % s + 1, v);
    }
  }
  std::copy(job.layer_rates.begin(), job.layer_rates.end(), machine.layer_rates().begin());
  const double counted = static_cast<double>(job.global_batch * s);
  for (std::size_t p = 0; p < machine.passes().size(); ++p) {
    const Pass& pass = machine.passes()[p];
    for (std::size_t e = 0; e < machine.exit_scale(p).size(); ++e) {
      const double weight = pass.subnet == Subnet{} ? machine.model().heads[e].spec().loss_weight : 1;
      *machine.exit_scale(p)[e].as<float>() = static_cast<float>(pass.weight * weight / counted);
    }
  }
}

// What one rank has after some steps: the last one's sums and gradients, and the weights in full precision.
struct RankResult {
  std::vector<double> sums, evaluated;    // [passes, exits, kLossSums]
  ByName grads, weights;                  // the elements that this rank answers for
  ByName frozen;                          // those that it has of what never changes, as a frozen teacher
  std::map<std::string, double> squares;  // of whole gradients
  MemoryPlan memory;
  std::vector<int> unused;  // slabs of each pool and bytes of scratch that nobody took
};

// Of a parameter at `place` of the flat buffers the elements in `part` of it.
inline void put(ByName& tensors, const Parameter& parameter, Range place, Range part, Tensor values) {
  for (const Piece& piece : parameter.pieces) {
    auto& tensor = tensors[piece.name];
    tensor.resize(static_cast<std::size_t>(piece.global.elements()), NAN);
    const float* from = values.as<float>() + place.begin - part.begin;
    runs(piece, part.begin - place.begin, part.end - place.begin,
         [&](const Run& r) { std::copy_n(from + r.local, r.count, tensor.begin() + r.global); });
  }
}

// A working copy is what its master rounds to.
inline void check_values(const Flat& flat, const Parameter& p, Range part) {
  if (p.value.dtype != DType::bf16) return;
  const Tensor values = flat.values(part), exact = flat.exact(part);
  for (std::int64_t i = 0; i < part.count(); ++i)
    ASSERT_EQ(values.as<bf16>()[i].bits, bf16(exact.as<float>()[i]).bits) << p.name() << " " << i;
}

inline void put_frozen(ByName& frozen, Context& ctx, const Flat& flat) {
  for (const Parameter* p : flat.frozen()) {
    const Range place = flat.place(*p);
    std::vector<float> values(static_cast<std::size_t>(place.count()));
    copy(ctx, Tensor(values.data(), {place.count()}, DType::f32), flat.values(place));
    put(frozen, *p, place, place, Tensor(values.data(), {place.count()}, DType::f32));
  }
}

inline RankResult result_of(Machine& machine) {
  RankResult result;
  for (std::size_t p = 0; p < machine.passes().size(); ++p) {
    const Tensor sums = machine.sums(p);
    result.sums.insert(result.sums.end(), sums.as<double>(), sums.as<double>() + sums.elements());
  }
  result.memory = machine.memory();
  for (const Pool& pool : machine.pools()) result.unused.push_back(pool.count() - pool.peak());
  result.unused.push_back(static_cast<int>(machine.scratch().capacity() - aligned(machine.scratch().peak())));
  const Flat& flat = machine.flat();
  for (const Parameter* p : flat.owned())
    for (const Range& kept : flat.kept()) {
      const Range place = flat.place(*p);
      Range part = kept & place;
      if (part.count() < 0) part = {kept.begin, kept.begin};
      check_values(flat, *p, part);
      put(result.grads, *p, place, part, flat.gradients(part));
      put(result.weights, *p, place, part, flat.exact(part));
    }
  put_frozen(result.frozen, machine.context(), flat);
  if (machine.teacher()) put_frozen(result.frozen, machine.context(), machine.teacher()->flat());
  return result;
}

// As the trainer does it.
inline void reduce_statistics(Machine& machine, const LogicalNames& names) {
  gradient_squares(machine.context(), machine.flat(), names, machine.mesh().at.tensor, machine.squares());
  all_reduce(machine.context(), machine.statistics(), machine.mesh().world).wait(machine.context());
}
inline void update(Machine& machine, const OptimizerConfig& config, int t) {
  const std::vector<double> norms = group_norms(machine.squares(), LogicalNames(machine.model()));
  for (std::size_t g = 0; g < norms.size(); ++g)
    set_scalars(machine.scalars().narrow(0, static_cast<std::int64_t>(g), 1).reshape({4}),
                {config.lr, clip_factor(norms[g], config.clip_grad_norm), t}, config);
  apply_update(machine.context(), machine.flat(), config, machine.scalars());
  machine.share_values();
}

// On every rank of a world of job.degrees().world() ranks, over any transport.
inline RankResult run_rank(SmallJob job, const Group& world, int steps = 1) {
  job.options.microbatches = job.global_batch / (static_cast<int>(job.options.micro_batch_size) * job.data);
  if (!job.passes.empty() && job.options.step_passes.empty()) job.options.step_passes = {job.passes};
  const MemoryPlan plan = plan_memory(job.options, Mesh::planned(world.rank(), job.degrees()));
  Machine machine(job.options, Mesh(world, job.degrees()), Backing::host, plan.peak, [world] { world.progress(); });
  const LogicalNames names(machine.model());
  machine.flat().initialize(machine.context(), 1234);
  if (!job.passes.empty()) machine.set_passes(job.passes);
  fill_inputs(machine, job);
  if (job.before) job.before(machine);
  PhaseTimes times;
  std::vector<double> evaluated;
  if (job.evaluates) {
    fill_zero(machine.context(), machine.statistics());
    machine.evaluate(job.options.microbatches, "an evaluation", times);
    all_reduce(machine.context(), machine.statistics(), world).wait(machine.context());
    evaluated.assign(machine.sums().as<double>(), machine.sums().as<double>() + machine.sums().elements());
  }
  for (int t = 1; t <= steps; ++t) {
    fill_zero(machine.context(), machine.statistics());
    machine.train("a step", times);
    reduce_statistics(machine, names);
    if (job.optimizer) update(machine, *job.optimizer, t);
  }
  RankResult result = result_of(machine);
  result.evaluated = evaluated;
  for (std::int64_t i = 0; i < names.size(); ++i) result.squares[names.name(i)] = machine.squares().as<double>()[i];
  return result;
}

// Elements that several ranks answer for have the same bits on all of them.
inline void merge(ByName& all, const ByName& part) {
  for (const auto& [name, values] : part) {
    auto& merged = all.try_emplace(name, values.size(), NAN).first->second;
    bool same = true;
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (std::isnan(merged[i])) merged[i] = values[i];
      same = same && (std::isnan(values[i]) || values[i] == merged[i]);
    }
    EXPECT_TRUE(same) << name << " has other bits on another rank";
  }
}

// Of what was merged: somebody has every element, and a number is in it.
inline void expect_numbers(const ByName& tensors, const char* what) {
  for (const auto& [name, values] : tensors)
    EXPECT_EQ(std::ranges::count_if(values, [](float value) { return std::isnan(value); }), 0) << what << " of " << name << " are none";
}

// What all ranks have.
struct StepResult {
  std::vector<double> sums, evaluated;
  ByName grads, weights, frozen;
  std::map<std::string, double> squares;
  std::vector<std::pair<MemoryPlan, std::vector<int>>> peaks;  // by rank
};

// All ranks as threads of this process.
inline StepResult run_small_job(const SmallJob& job, int steps = 1) {
  StepResult result;
  const auto world_size = static_cast<std::size_t>(job.degrees().world());
  result.peaks.resize(world_size);
  std::mutex mutex;
  run_in_process(
      job.degrees().world(),
      [&](Group world) {
        const RankResult mine = run_rank(job, world, steps);
        const std::lock_guard lock(mutex);
        result.sums = mine.sums;
        result.evaluated = mine.evaluated;
        result.squares = mine.squares;
        result.peaks[static_cast<std::size_t>(world.rank())] = {mine.memory, mine.unused};
        merge(result.grads, mine.grads);
        merge(result.weights, mine.weights);
        merge(result.frozen, mine.frozen);
      },
      job.sends);
  expect_numbers(result.grads, "gradients"), expect_numbers(result.weights, "weights"), expect_numbers(result.frozen, "frozen weights");
  return result;
}

// Of a share of tokens rounding may turn the best guess.
inline void expect_close(const std::vector<double>& sums, const std::vector<double>& expected, double tolerance, const std::string& what) {
  ASSERT_EQ(sums.size(), expected.size());
  for (std::size_t i = 0; i < sums.size(); ++i)
    EXPECT_NEAR(sums[i], expected[i], tolerance * std::abs(expected[i % kLossSums == 2 ? i + 1 : i])) << what << " sum " << i;
}

inline void expect_close(const StepResult& result, const StepResult& expected, double tolerance, const std::string& what) {
  expect_close(result.sums, expected.sums, tolerance, what);
  ASSERT_EQ(result.grads.size(), expected.grads.size()) << what;
  expect_close(result.grads, expected.grads, tolerance, what);
}

// Every element is counted once: doubles add the same terms in another order.
inline void expect_squares(const StepResult& result, const std::string& what) {
  ASSERT_EQ(result.squares.size(), result.grads.size()) << what;
  for (const auto& [name, grad] : result.grads) {
    const double expected = std::pow(norm(grad), 2);
    EXPECT_NEAR(result.squares.at(name), expected, static_cast<double>(grad.size()) * 0x1p-52 * expected) << what << ": " << name;
  }
}

inline void expect_all_used(const StepResult& result, const std::string& what) {
  for (const auto& [plan, unused] : result.peaks)
    EXPECT_EQ(unused, std::vector<int>(unused.size(), 0)) << what << ": slabs or scratch bytes that nobody took";
}

}  // namespace offramp::testing
