// A small model with a data-independent batch, trained for one step on any layout, over in-process ranks or those of a given
// world: what the tests of the machine compare.
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "comm/in_process.h"
#include "parallel/machine.h"
#include "tensor/check.h"
#include "tensor/random.h"

namespace offramp::testing {

struct SmallJob {
  MachineOptions options;
  int global_batch = 8;
  int pipeline = 1, data = 1;
  Sends sends = Sends::rendezvous;
};

inline SmallJob small_job(std::vector<ExitSpec> exits, bool tied) {
  SmallJob job;
  ModelConfig& m = job.options.model;
  m.num_hidden_layers = 8;
  m.hidden_size = 32;
  m.intermediate_size = 48;
  m.num_attention_heads = 4;
  m.num_key_value_heads = 2;
  m.vocab_size = 61;
  m.max_position_embeddings = 16;
  m.tie_word_embeddings = tied;
  m.initializer_range = 0.2;
  job.options.exits = std::move(exits);
  job.options.micro_batch_size = 1;
  job.options.sequence_length = 16;
  job.options.bucket_elements = 4000;  // several segments a stage
  job.options.optimizer_state = {"exp_avg", "exp_avg_sq"};
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

struct StepResult {
  std::vector<double> sums;                         // [exits, kLossSums]
  std::map<std::string, std::vector<float>> grads;  // by logical tensor
  std::vector<std::pair<MemoryPlan, std::vector<int>>> peaks;
};

inline std::int32_t token(std::int64_t sample, std::int64_t i, std::int64_t vocabulary) {
  return static_cast<std::int32_t>(bits({7, Use::shuffle, 3}, static_cast<std::uint64_t>(sample * 1000 + i)) %
                                   static_cast<std::uint64_t>(vocabulary));
}

inline void fill_inputs(Machine& machine, const SmallJob& job) {
  const std::int64_t s = job.options.sequence_length, b = job.options.micro_batch_size, v = job.options.model.vocab_size;
  for (std::size_t m = 0; m < machine.inputs().size(); ++m)
    for (std::int64_t i = 0; i < b * s; ++i) {
      const std::int64_t sample = (static_cast<std::int64_t>(m) * job.data + machine.mesh().at.data) * b + i / s;
      machine.inputs()[m].ids.as<std::int32_t>()[i] = token(sample, i % s, v);
      machine.inputs()[m].labels.as<std::int32_t>()[i] = token(sample, i % s + 1, v);
    }
  const double counted = static_cast<double>(job.global_batch * s);
  for (std::size_t e = 0; e < machine.exit_scale().size(); ++e)
    *machine.exit_scale()[e].as<float>() = static_cast<float>(machine.model().heads[e].spec().loss_weight / counted);
}

// What one rank has after `steps` steps without an update (the last one counts).
struct RankResult {
  std::vector<double> sums;
  std::map<std::string, std::vector<float>> grads;  // of the tensors it owns
  MemoryPlan memory;
  std::vector<int> unused;  // slabs of each pool and bytes of scratch that nobody took
};

inline RankResult result_of(Machine& machine) {
  RankResult result;
  const Tensor sums = machine.sums();
  result.sums.assign(sums.as<double>(), sums.as<double>() + sums.elements());
  result.memory = machine.memory();
  for (const Pool& pool : machine.pools()) result.unused.push_back(pool.count() - pool.peak());
  result.unused.push_back(static_cast<int>(machine.scratch().capacity() - aligned(machine.scratch().peak())));
  for (const Parameter* p : machine.flat().owned())
    for (const Piece& piece : p->pieces) {
      auto& grad = result.grads[piece.name];
      grad.resize(static_cast<std::size_t>(piece.elements()));
      runs(piece, [&](const Run& r) { std::copy_n(p->grad.as<float>() + r.local, r.count, grad.begin() + r.global); });
    }
  return result;
}

// On every rank of a world of job.pipeline x job.data ranks, over any transport.
inline RankResult run_rank(SmallJob job, const Group& world, int steps = 1) {
  job.options.microbatches = job.global_batch / (static_cast<int>(job.options.micro_batch_size) * job.data);
  const Degrees degrees{1, job.pipeline, job.data};
  const MemoryPlan plan = plan_memory(job.options, Mesh::planned(world.rank(), degrees));
  Machine machine(job.options, Mesh(world, degrees), Backing::host, plan.peak, [world] { world.progress(); });
  machine.flat().initialize(machine.context(), 1234);
  fill_inputs(machine, job);
  PhaseTimes times;
  for (int i = 0; i < steps; ++i) {
    fill_zero(machine.context(), machine.statistics());
    machine.train("step 1", times);
  }
  all_reduce(machine.context(), machine.statistics(), world).wait(machine.context());
  return result_of(machine);
}

// All ranks as threads of this process; gradients from their owners on data rank 0.
inline StepResult run_small_job(const SmallJob& job, int steps = 1) {
  StepResult result;
  std::mutex mutex;
  run_in_process(
      job.pipeline * job.data,
      [&](Group world) {
        RankResult mine = run_rank(job, world, steps);
        const std::lock_guard lock(mutex);
        result.sums = mine.sums;
        result.peaks.emplace_back(mine.memory, mine.unused);
        if (world.rank() < job.pipeline) result.grads.merge(mine.grads);
      },
      job.sends);
  return result;
}

inline void expect_close(const std::vector<double>& sums, const std::vector<double>& other, double tolerance, const std::string& what) {
  ASSERT_EQ(sums.size(), other.size());
  for (std::size_t i = 0; i < sums.size(); ++i)
    EXPECT_NEAR(sums[i], other[i], tolerance * std::abs(sums[i]) + 1e-12) << what << " sum " << i;
}

inline void expect_close(const std::vector<float>& grad, const std::vector<float>& other, double tolerance, const std::string& what) {
  ASSERT_EQ(grad.size(), other.size()) << what;
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < grad.size(); ++i) {
    difference += std::pow(grad[i] - other[i], 2);
    norm += std::pow(grad[i], 2);
  }
  EXPECT_GT(norm, 0) << what << " has no gradient";
  EXPECT_LE(std::sqrt(difference), tolerance * std::sqrt(norm)) << what;
}

inline void expect_close(const StepResult& a, const StepResult& b, double tolerance, const std::string& what) {
  expect_close(a.sums, b.sums, tolerance, what);
  ASSERT_EQ(a.grads.size(), b.grads.size()) << what;
  for (const auto& [name, grad] : a.grads) expect_close(grad, b.grads.at(name), tolerance, what + ": " + name);
}

}  // namespace offramp::testing
