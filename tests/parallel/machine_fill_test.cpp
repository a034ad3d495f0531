// Filled gaps: gradients are those of the closed form, made of one rank's gradients of single samples, and of whole batches where all
// samples are equal; every placement gives the same bits, in exactly the memory that was planned.
#include "models/names.h"
#include "tests/parallel/small_job.h"

namespace offramp::testing {
namespace {

constexpr double kClose = 1e-6;  // of a tensor's norm: sums of some dozen terms of fp32 in another order

struct FilledJob {
  SmallJob job;
  bool equal = false;  // all samples are one

  int partial() const { return job.options.partial_microbatches; }
  int microbatches() const { return job.global_batch / job.data; }
  bool warmup() const { return job.options.fill_bubbles == Fill::warmup; }
  std::string text() const { return fmt::format("{} {} {}", job.text(), warmup() ? "warmup" : "cooldown", job.options.exit_placement); }
};

FilledJob filled_job(int pipeline, Fill fill, bool tied) {
  FilledJob filled{.job = small_job(exits_of_every_kind(), tied)};
  SmallJob& job = filled.job;
  job.pipeline = pipeline, job.global_batch = 6;
  job.options.model.hidden_dropout = 0.1;
  job.options.fill_bubbles = fill;
  job.options.partial_microbatches = std::max(1, gap_microbatches(pipeline, kBackwardOverForward));
  return filled;
}

// Of some samples every third target does not count.
bool counts(std::int64_t sample, std::int64_t token) { return sample % 2 == 0 || token % 3 != 0; }

double counted(std::int64_t sample, const SmallJob& job) {
  double sum = 0;
  for (std::int64_t i = 0; i < job.options.sequence_length; ++i) sum += counts(sample, i) ? 1 : 0;
  return sum;
}

void fill_sample(MicrobatchInput& input, std::int64_t sample, const SmallJob& job) {
  input.first_sample = sample;
  for (std::int64_t i = 0; i < job.options.sequence_length; ++i) {
    input.ids.as<std::int32_t>()[i] = token(sample, i, job.options.model.vocab_size);
    input.labels.as<std::int32_t>()[i] = counts(sample, i) ? token(sample, i + 1, job.options.model.vocab_size) : -1;
  }
}

std::int64_t sample_of(int microbatch, int data, const FilledJob& filled) {
  return filled.equal ? 0 : static_cast<std::int64_t>(microbatch) * filled.job.data + data;
}

// As the trainer sets them.
void set_scales(Machine& machine, const FilledJob& filled) {
  std::vector<double> tokens;
  for (int m = 0; m < machine.layout().microbatches; ++m) {
    tokens.push_back(0);
    for (int d = 0; d < filled.job.data; ++d) tokens.back() += counted(sample_of(m, d, filled), filled.job);
  }
  const FillWeights weights = fill_weights(filled.job.options.fill_bubbles, machine.layout(), tokens);
  for (std::size_t e = 0; e < weights.exits.size(); ++e)
    *machine.exit_scale()[e].as<float>() = static_cast<float>(machine.model().heads[e].spec().loss_weight / weights.exits[e]);
  if (machine.gradient_scale().defined())
    *machine.gradient_scale().as<float>() = static_cast<float>(weights.gradients[static_cast<std::size_t>(machine.mesh().at.pipeline)]);
}

RankResult run_filled_rank(const FilledJob& filled, const Group& world) {
  MachineOptions options = filled.job.options;
  options.microbatches = filled.microbatches();
  const MemoryPlan plan = plan_memory(options, Mesh::planned(world.rank(), filled.job.degrees()));
  Machine machine(options, Mesh(world, filled.job.degrees()), Backing::host, plan.peak, [world] { world.progress(); });
  machine.flat().initialize(machine.context(), 1234);
  for (int m = 0; m < machine.layout().microbatches; ++m)
    fill_sample(machine.inputs()[static_cast<std::size_t>(m)], sample_of(m, machine.mesh().at.data, filled), filled.job);
  set_scales(machine, filled);
  fill_zero(machine.context(), machine.statistics());
  PhaseTimes times;
  machine.train("a step", times);
  reduce_statistics(machine, LogicalNames(machine.model()));
  return result_of(machine);
}

StepResult run_filled(const FilledJob& filled) {
  StepResult result;
  std::mutex mutex;
  run_in_process(
      filled.job.degrees().world(),
      [&](Group world) {
        const RankResult mine = run_filled_rank(filled, world);
        const std::lock_guard lock(mutex);
        result.sums = mine.sums;
        result.peaks.emplace_back(mine.memory, mine.unused);
        merge(result.grads, mine.grads);
      },
      filled.job.sends);
  return result;
}

// The model with a copy of its own wherever tensors are shared between stages, and what each copy is one of.
MachineOptions untied(MachineOptions options) {
  options.model.tie_word_embeddings = false;
  for (ExitSpec& exit : options.exits) exit.shared_output = exit.shared_norm = false;
  return options;
}
NameOf copies_of(const MachineOptions& options) {
  return [options](const std::string& name) {
    const Names names(options.model);
    for (const ExitSpec& exit : options.exits) {
      if (exit.shared_output && name == Names::exit_output(exit.layer) + ".weight") return names.output + ".weight";
      if (exit.shared_norm && name.starts_with(Names::exit_norm(exit.layer) + "."))
        return names.final_norm + name.substr(Names::exit_norm(exit.layer).size());
    }
    return name == "lm_head.weight" ? names.output + ".weight" : name;
  };
}

std::map<std::string, int> stages_of_copies(const SmallJob& job) {
  Arena nowhere(Backing::none, kUnlimited);
  Holdings held(untied(job.options), Mesh::planned(0, job.degrees()), nowhere);
  std::map<std::string, int> stages;
  visit_with_stage(held.model, held.partition, [&](Parameter& p, int stage) {
    for (const Piece& piece : p.pieces) stages[piece.name] = stage;
  });
  return stages;
}

// Gradients on one rank of single samples, with given scales of the exits; each copy apart.
class Alone {
 public:
  Alone(const SmallJob& job, const Group& world)
      : job_(job),
        machine_(options_of(job), Mesh(world, {}), Backing::host, plan_memory(options_of(job), Mesh::planned(0, {})).peak,
                 [world] { world.progress(); }) {
    machine_.flat().initialize(machine_.context(), 1234, copies_of(job.options));
  }
  std::size_t exits() const { return machine_.exit_scale().size(); }
  double weight(std::size_t e) { return machine_.model().heads[e].spec().loss_weight; }
  ByName gradients(std::int64_t sample, const std::vector<double>& scales) {
    fill_sample(machine_.inputs()[0], sample, job_);
    for (std::size_t e = 0; e < scales.size(); ++e) *machine_.exit_scale()[e].as<float>() = static_cast<float>(scales[e]);
    PhaseTimes times;
    machine_.train("alone", times);
    return result_of(machine_).grads;
  }

 private:
  static MachineOptions options_of(const SmallJob& job) {
    MachineOptions options = untied(job.options);
    options.microbatches = 1, options.fill_bubbles = Fill::none;
    return options;
  }
  SmallJob job_;
  Machine machine_;
};

using Sums = std::map<std::string, std::vector<double>>;
void add(Sums& sums, const ByName& grads, const NameOf& origin, const std::function<double(const std::string&)>& factor) {
  for (const auto& [name, values] : grads) {
    std::vector<double>& sum = sums[origin(name)];
    sum.resize(values.size(), 0);
    const double by = factor(name);
    for (std::size_t i = 0; i < values.size(); ++i) sum[i] += by * values[i];
  }
}

// methods: n1(r) = max(0, K - r) partial microbatches of the warm-up run on stage r, the first of them; floor(2 r / 3) of the cool-down
// go back through it (of two stages one does, which the formula has no room for).
bool learns(int stage, int microbatch, const FilledJob& filled) {
  const int k = filled.partial(), whole = filled.microbatches();
  if (filled.warmup()) return microbatch >= k || microbatch >= stage;  // microbatch i ends on stage i
  return microbatch - whole < (filled.job.pipeline == 2 ? stage : 2 * stage / 3);
}

// Sums of all samples that a stage learns from, each a mean over their tokens.
Sums closed_form(const FilledJob& filled, Alone& alone) {
  const std::map<std::string, int> stages = stages_of_copies(filled.job);
  const int all = filled.microbatches() + filled.partial();
  const auto tokens = [&](int stage) {
    double sum = 0;
    for (int m = 0; m < all; ++m)
      for (int d = 0; d < filled.job.data && learns(stage, m, filled); ++d) sum += counted(sample_of(m, d, filled), filled.job);
    return sum;
  };
  std::vector<int> stage_of_exit;
  for (const ExitSpec& exit : filled.job.options.exits) stage_of_exit.push_back((exit.layer - 1) * filled.job.pipeline / 8);
  stage_of_exit.push_back(filled.job.pipeline - 1);
  Sums sums;
  for (int m = 0; m < all; ++m)
    for (int d = 0; d < filled.job.data; ++d) {
      std::vector<double> scales;
      for (std::size_t e = 0; e < alone.exits(); ++e) {
        const bool seen = !filled.warmup() || learns(stage_of_exit[e], m, filled);
        scales.push_back(seen ? alone.weight(e) / (filled.warmup() ? tokens(stage_of_exit[e]) : 1) : 0);
      }
      add(sums, alone.gradients(sample_of(m, d, filled), scales), copies_of(filled.job.options), [&](const std::string& copy) {
        const int stage = stages.at(copy);
        return filled.warmup() ? 1 : learns(stage, m, filled) ? 1 / tokens(stage) : 0;
      });
    }
  return sums;
}

ByName rounded(const Sums& sums) {
  ByName values;
  for (const auto& [name, sum] : sums) values[name].assign(sum.begin(), sum.end());
  return values;
}

TEST(MachineFill, GradientsAreThoseOfTheClosedForm) {
  for (const bool tied : {false, true})
    for (const Fill fill : {Fill::warmup, Fill::cooldown})
      for (const Degrees& degrees : {Degrees{1, 2, 1}, Degrees{1, 4, 1}, Degrees{1, 4, 2}, Degrees{2, 4, 1}}) {
        FilledJob filled = filled_job(degrees.pipeline, fill, tied);
        filled.job.tensor = degrees.tensor, filled.job.data = degrees.data, filled.job.global_batch *= degrees.data;
        filled.job.options.sequence_parallel = degrees.tensor > 1;
        const StepResult result = run_filled(filled);
        ByName expected;
        run_in_process(1, [&](Group world) {
          Alone alone(filled.job, world);
          expected = rounded(closed_form(filled, alone));
        });
        ASSERT_EQ(result.grads.size(), expected.size());
        // What tensor ranks divide adds up in another order in every product.
        expect_close(result.grads, expected, (degrees.tensor > 1 ? 4 : 1) * kClose, filled.text());
        expect_all_used(result, filled.text());
      }
}

TEST(MachineFill, EqualSamplesGiveThePlainGradient) {
  for (const bool tied : {false, true})
    for (const Fill fill : {Fill::warmup, Fill::cooldown})
      for (const int pipeline : {2, 4}) {
        FilledJob filled = filled_job(pipeline, fill, tied);
        filled.equal = true;
        FilledJob plain = filled;
        plain.job.options.fill_bubbles = Fill::none;
        expect_close(run_filled(filled).grads, run_filled(plain).grads, kClose, filled.text());
      }
}

TEST(MachineFill, EveryPlacementAndRecomputeGivesTheSameBits) {
  for (const Fill fill : {Fill::warmup, Fill::cooldown}) {
    FilledJob filled = filled_job(4, fill, true);
    const StepResult expected = run_filled(filled);
    for (const char* placement : {"after_forward", "before_backward", "auto"})
      for (const char* recompute : {"none", "selective", "full"})
        for (const Sends sends : {Sends::rendezvous, Sends::buffered}) {
          filled.job.options.exit_placement = placement, filled.job.options.recompute = recompute, filled.job.sends = sends;
          const StepResult result = run_filled(filled);
          EXPECT_EQ(result.grads, expected.grads) << filled.text() << " " << recompute;
          EXPECT_EQ(result.sums, expected.sums) << filled.text() << " " << recompute;
          expect_all_used(result, filled.text());
        }
  }
}

// What each exit counted is what it saw: the logs' losses are means.
TEST(MachineFill, SumsAreOfWhatEachExitSaw) {
  for (const Fill fill : {Fill::warmup, Fill::cooldown}) {
    const FilledJob filled = filled_job(4, fill, false);
    const StepResult result = run_filled(filled);
    const std::vector<int> stages = {0, 0, 1, 2, 2, 3, 3};
    for (std::size_t e = 0; e < stages.size(); ++e) {
      double seen = 0;
      for (int m = 0; m < filled.microbatches() + filled.partial(); ++m)
        seen += learns(stages[e], m, filled) ? counted(sample_of(m, 0, filled), filled.job) : 0;
      EXPECT_EQ(result.sums[e * kLossSums + 3], seen) << filled.text() << " exit " << e;
    }
  }
}

}  // namespace
}  // namespace offramp::testing
