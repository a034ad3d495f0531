// What tuning exits onto a frozen backbone costs, on a model of SmolLM2-135M's sizes: a step beside its parts, the forward up to the last
// exit and the exits' forward and backward, each measured apart; a step from the feature cache beside the exits alone; and what the cache
// gains beside what FLOPs allow.  OMP_NUM_THREADS=2 bench_tuning [rounds [fp32]] All four take turns in rounds, every other round
// backwards; ratios are of one round, their median is printed, lowest and highest in brackets. A step is 4 microbatches of 512 tokens
// with its gradient norm and update; features are read from files, checksums compared.
#include <omp.h>

#include <chrono>
#include <ctime>
#include <filesystem>

#include "tests/parallel/small_job.h"
#include "trainer/feature_cache.h"

namespace offramp {
namespace {

constexpr std::int64_t kLength = 512, kSequences = 1, kMicrobatches = 4;

// Elapsed, and of all threads together: what others do on the machine weighs less there.
struct Seconds {
  double wall = 0, processor = 0;
};

Seconds now() {
  std::timespec spent{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent);
  return {std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(),
          static_cast<double>(spent.tv_sec) + 1e-9 * static_cast<double>(spent.tv_nsec)};
}

template <class F>
Seconds time_of(F work) {
  const Seconds before = now();
  work();
  const Seconds after = now();
  return {after.wall - before.wall, after.processor - before.processor};
}

testing::SmallJob job_of(const std::vector<ExitSpec>& exits, DType precision, bool given_taps) {
  testing::SmallJob job;
  job.global_batch = kMicrobatches * kSequences;
  MachineOptions& o = job.options;
  o.model = {.num_hidden_layers = 30, .hidden_size = 576, .intermediate_size = 1536, .num_attention_heads = 9, .num_key_value_heads = 3};
  o.model.vocab_size = 49152, o.model.max_position_embeddings = 8192, o.model.tie_word_embeddings = true;
  o.exits = exits, o.frozen_backbone = true, o.given_taps = given_taps, o.schedule = "exits_only";
  o.micro_batch_size = kSequences, o.sequence_length = kLength, o.microbatches = kMicrobatches;
  o.optimizer_state = {"exp_avg", "exp_avg_sq"}, o.precision = precision;
  return job;
}

class Rank {
 public:
  explicit Rank(const testing::SmallJob& job)
      : machine_(job.options, Mesh({}, job.degrees()), Backing::host, plan_memory(job.options, Mesh::planned(0, job.degrees())).peak),
        names_(machine_.model()) {
    machine_.flat().initialize(machine_.context(), 1);
    testing::fill_inputs(machine_, job);
  }
  Machine& machine() { return machine_; }

  void step() {
    fill_zero(machine_.context(), machine_.statistics());
    machine_.train("a step", times_);
    testing::reduce_statistics(machine_, names_);
    testing::update(machine_, {}, ++updates_);
  }
  void forward() {
    machine_.read_taps(kMicrobatches, "the forward", [](const MicrobatchInput&, int, Tensor) {});
  }
  // By hand, of what each exit reads.
  void exits(Tensor tap) {
    for (int m = 0; m < kMicrobatches; ++m)
      for (std::size_t e = 0; e < machine_.options().exits.size(); ++e) {
        const MicrobatchInput& input = machine_.inputs()[static_cast<std::size_t>(m)];
        const HeadIn in{.x = tap, .labels = input.labels, .scale = machine_.exit_scale()[e]};
        machine_.model().heads[e].exit(machine_.context(), {},
                                       machine_.sums().narrow(0, static_cast<std::int64_t>(e), 1).reshape({kLossSums}), in, input.sequences,
                                       true);
      }
  }

 private:
  Machine machine_;
  LogicalNames names_;
  PhaseTimes times_;
  int updates_ = 0;
};

// What the backbone gives, in files that are gone at the end.
class Features {
 public:
  Features(Rank& backbone, const std::vector<int>& taps, DType type) : directory_(std::filesystem::temp_directory_path() / "bench_tuning") {
    wanted_.sequence_length = kLength, wanted_.hidden_size = 576, wanted_.type = type, wanted_.taps = taps;
    wanted_.sets = {{"bench", "bench", kMicrobatches * kSequences}};
    std::filesystem::remove_all(directory_);
    FeatureWriter::prepare(directory_, wanted_);
    FeatureWriter writer(directory_, wanted_);
    backbone.machine().read_taps(kMicrobatches, "features", [&](const MicrobatchInput& input, int unit, Tensor tap) {
      each(input, unit, tap, [&](const FeaturePlace& place, Tensor rows) { writer.write(backbone.machine().context(), place, rows); });
    });
    writer.finish();
    FeatureWriter::publish(directory_, wanted_);
    cache_ = std::make_unique<FeatureCache>(directory_, wanted_);
  }
  ~Features() {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }
  Features(const Features&) = delete;
  Features& operator=(const Features&) = delete;

  void give_to(Machine& machine) {
    machine.give_taps([&](const MicrobatchInput& input, int unit, Tensor tap) {
      each(input, unit, tap, [&](const FeaturePlace& place, Tensor rows) { cache_->read(machine.context(), place, rows); });
    });
  }

 private:
  template <class F>
  void each(const MicrobatchInput& input, int unit, Tensor tap, F visit) {
    const auto at = static_cast<std::size_t>(std::ranges::find(wanted_.taps, unit) - wanted_.taps.begin());
    for (std::int64_t i = 0; i < kSequences; ++i) visit({0, at, input.first_sample + i}, tap.narrow(0, i * kLength, kLength));
  }

  std::string directory_;
  offramp::Features wanted_;
  std::unique_ptr<FeatureCache> cache_;
};

struct Round {
  Seconds step, forward, exits, cached;
};

std::vector<Round> measure(const std::vector<ExitSpec>& exits, DType precision, int rounds, double* ceiling) {
  Rank whole(job_of(exits, precision, false)), given(job_of(exits, precision, true));
  std::vector<int> taps;
  for (const Head& head : whole.machine().model().heads) taps.push_back(head.tap());
  Features features(whole, taps, precision);
  features.give_to(given.machine());
  *ceiling = whole.machine().flops() / given.machine().flops();
  Arena memory(Backing::host, 2 * kLength * kSequences * 576 * sizeof(float));
  const Tensor tap = memory.tensor({kLength * kSequences, 576}, precision);
  whole.machine().read_taps(1, "a tap", [&](const MicrobatchInput&, int, Tensor read) { copy(whole.machine().context(), tap, read); });
  std::vector<Round> all;
  for (int r = 0; r <= rounds; ++r) {
    Round round;
    const std::array<std::function<void()>, 4> turns = {
        [&] { round.step = time_of([&] { whole.step(); }); }, [&] { round.forward = time_of([&] { whole.forward(); }); },
        [&] { round.exits = time_of([&] { given.exits(tap); }); }, [&] { round.cached = time_of([&] { given.step(); }); }};
    for (std::size_t i = 0; i < turns.size(); ++i) turns[r % 2 == 0 ? i : turns.size() - 1 - i]();
    if (r > 0) all.push_back(round);  // the first has seen no memory yet
  }
  return all;
}

template <class F>
std::string ratio(const std::vector<Round>& rounds, F of) {
  std::vector<double> all;
  for (const Round& round : rounds) all.push_back(of(round));
  std::ranges::sort(all);
  return fmt::format("{:.2f} ({:.2f}-{:.2f})", all[all.size() / 2], all.front(), all.back());
}

void print(const char* exits, DType precision, const std::vector<Round>& rounds, double ceiling) {
  const auto row = [&](const char* clock, double Seconds::*in) {
    fmt::print("| {:<22} | {:4} | {:9} | {:>7.2f} | {:>16} | {:>16} | {:>16} | {:>5.2f} |\n", exits, name_of(precision), clock,
               rounds.front().step.*in, ratio(rounds, [&](const Round& r) { return r.step.*in / (r.forward.*in + r.exits.*in); }),
               ratio(rounds, [&](const Round& r) { return r.cached.*in / r.exits.*in; }),
               ratio(rounds, [&](const Round& r) { return r.step.*in / r.cached.*in; }), ceiling);
  };
  row("elapsed", &Seconds::wall), row("processor", &Seconds::processor);
}

}  // namespace
}  // namespace offramp

int main(int argc, char** argv) {
  using namespace offramp;
  const int rounds = argc > 1 ? std::max(1, std::atoi(argv[1])) : 5;
  const DType precision = argc > 2 && argv[2] == std::string_view("fp32") ? DType::f32 : DType::bf16;
  const auto exits_at = [](std::initializer_list<int> layers, HeadKind head, bool shared) {
    std::vector<ExitSpec> exits;
    for (const int layer : layers) exits.push_back({.layer = layer, .head = head, .shared_output = shared, .loss_weight = 1});
    return exits;
  };
  fmt::print("{} threads, {} rounds, {} tokens a step\n\n", omp_get_max_threads(), rounds, kMicrobatches * kSequences * kLength);
  fmt::print("| exits                  | type | seconds   | a step  | / its parts      | cached / exits   | step / cached    | FLOPs |\n");
  fmt::print("|------------------------|------|-----------|--------:|-----------------:|-----------------:|-----------------:|------:|\n");
  for (const auto& [name, exits] : {std::pair{"own, 15", exits_at({15}, HeadKind::norm, false)},
                                    {"own, 5 10 15", exits_at({5, 10, 15}, HeadKind::norm, false)},
                                    {"block, shared, 5 10 15", exits_at({5, 10, 15}, HeadKind::block, true)}}) {
    double ceiling = 0;
    const std::vector<Round> measured = measure(exits, precision, rounds, &ceiling);
    print(name, precision, measured, ceiling);
    std::fflush(stdout);
  }
}
