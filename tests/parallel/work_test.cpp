// FLOPs by formula are those that plan mode counts where the same units run.
#include "parallel/work.h"

#include <numeric>

#include "parallel/cost.h"
#include "parallel/partition.h"
#include "parallel/step_schedule.h"
#include "tests/parallel/small_job.h"

namespace offramp::testing {
namespace {

// Of products and attention: what else there is, norms and the like, no formula counts.
double products_of(const Counted& work) {
  double flops = 0;
  for (const Metered& call : work.calls)
    if (call.cost.product[0] > 0 || std::string_view(call.name).starts_with("attention")) flops += call.cost.flops;
  return flops;
}

MachineOptions options_of(const std::string& architecture, const std::string& recompute, bool wide_heads = false) {
  SmallJob job = small_job(exits_of_every_kind(), false, architecture);
  job.options.recompute = recompute;
  if (wide_heads) job.options.model.head_dim = 2 * job.options.model.head_size();
  return job.options;
}

void expect_work_of_units(const MachineOptions& options) {
  SCOPED_TRACE(options.model.architecture + " " + options.recompute + " " + std::to_string(options.model.head_size()));
  const ModelWork counted = measure_work(options, {});
  const LayerFlops layer = layer_flops(options.model, options.sequence_length);
  const double tokens = 16, again = options.recompute == "selective" ? layer.scores : 0;
  const auto near = [&](double a, double b, const char* what) { EXPECT_NEAR(a / b, 1, 1e-12) << what; };
  near(products_of(counted.attention.forward), tokens * layer.attention.forward, "attention");
  near(products_of(counted.attention.backward), tokens * (layer.attention.input + again), "attention's input");
  near(products_of(counted.attention.weight), tokens * layer.attention.weight, "attention's weights");
  near(products_of(counted.mlp.forward), tokens * layer.mlp.forward, "mlp");
  near(products_of(counted.mlp.backward), tokens * layer.mlp.input, "mlp's input");
  near(products_of(counted.mlp.weight), tokens * layer.mlp.weight, "mlp's weights");
  near(products_of(counted.exits[0].whole), tokens * output_flops(options.model).sum(), "a bare head");
}

TEST(Work, IsThatOfTheUnits) {
  for (const char* architecture : {"llama", "gpt2"})
    for (const char* recompute : {"none", "selective"})
      for (const bool wide_heads : {false, true}) expect_work_of_units(options_of(architecture, recompute, wide_heads));
}

TEST(Work, OfActionsAddsUpToThatOfLayersWhateverIsSplit) {
  SmallJob job = small_job(exits_of_every_kind(), false);
  job.pipeline = 2;
  for (const char* schedule : {"1f1b", "zero_bubble"})
    for (const bool split : {false, true}) {
      job.options.schedule = schedule, job.options.split_heads = split;
      Arena nowhere(Backing::none, kUnlimited);
      Holdings held(job.options, Mesh::planned(0, job.degrees()), nowhere);
      const Layout layout = step_layout(job.options, held, 1, true);
      const Times times = work_times(held.model, held.partition, layout, {.sequence_length = 16});
      double sum = 0;
      for (const Program& program : build_schedule(step_schedule(job.options, held, layout), layout))
        for (const Action& action : program) sum += action.index > 0 && action.op == Op::Backward ? 0 : times(action);
      const std::vector<double> layers = layer_work(job.options.model, job.options.exits, {.stages = 2, .sequence_length = 16});
      EXPECT_NEAR(sum / std::accumulate(layers.begin(), layers.end(), 0.0) / 16, 1, 1e-12) << schedule << split;
    }
}

TEST(Work, AttentionThatIsMadeAgainIsTheBackwards) {
  SmallJob job = small_job({}, false);
  Arena nowhere(Backing::none, kUnlimited);
  Holdings held(job.options, Mesh::planned(0, job.degrees()), nowhere);
  const Layout layout = step_layout(job.options, held, 1, true);
  const auto backward = [&](bool again) {
    return work_times(held.model, held.partition, layout, {.sequence_length = 16, .attention_again = again})({Op::Backward, 0, 0});
  };
  EXPECT_EQ(backward(true) - backward(false), 16 * 8 * layer_flops(job.options.model, 16).scores);
}

}  // namespace
}  // namespace offramp::testing
