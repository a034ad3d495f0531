// The keys of a once-for-all supernet.
#include "trainer/schema_keys.h"

namespace offramp {
namespace {

bool with_supernet(const Config& config) { return config.supernet.enabled; }
bool delays(const Config& config) {
  return config.supernet.enabled && (config.supernet.plan == PlanKind::deps || config.supernet.plan == PlanKind::ofa);
}
bool ramps(const Config& config) { return config.supernet.enabled && config.supernet.plan == PlanKind::deps; }
bool samples(const Config& config) { return delays(config) || (config.supernet.enabled && config.supernet.plan == PlanKind::sandwich); }
bool distills(const Config& config) { return samples(config) && config.supernet.distillation; }

constexpr KeyCondition kSupernet{with_supernet, "supernet"};  // the section itself says so: its keys are given nowhere else
constexpr KeyCondition kDelays{delays, "supernet.plan", "only deps and ofa train the whole alone first; name one, or remove this key"};
constexpr KeyCondition kRamps{ramps, "supernet.plan", "only deps lets subnets in slowly; name it, or remove this key"};
constexpr KeyCondition kSamples{samples, "supernet.plan",
                                "only sandwich, deps and ofa train several subnets a step; name one, or remove this key"};
constexpr KeyCondition kDistills{distills, "supernet.distillation",
                                 "only subnets that learn from the whole have one; set distillation: true, or remove this key"};

}  // namespace

std::vector<SchemaKey> supernet_keys() {
  return {
      {"supernet.plan",
       KEY_AT(supernet.plan),
       "A once-for-all supernet, in use where this section is, and which of its subnets each step trains (docs/training-modes.md).",
       {.choices = {"full", "sandwich", "deps", "ofa", "matformer", "nested_depth"}, .means = kSupernet}},
      {"supernet.num_hidden_layers",
       KEY_AT(supernet.space.num_hidden_layers),
       "Depths of subnets, ascending, the model's own last; there is an exit at each of the others.",
       {.range = kSize, .default_note = "the exits' layers, and all", .means = kSupernet}},
      {"supernet.hidden_size",
       KEY_AT(supernet.space.hidden_size),
       "Widths of the residual stream, ascending, the model's own last.",
       {.range = kSize, .default_note = "the model's", .means = kSupernet}},
      {"supernet.intermediate_size",
       KEY_AT(supernet.space.intermediate_size),
       "Widths inside the MLPs, ascending, the model's own last; multiples of `tensor_parallel_size`.",
       {.range = kSize, .default_note = "1/4, 1/2, 3/4 and all of the model's; nested_depth: all", .means = kSupernet}},
      {"supernet.num_key_value_heads",
       KEY_AT(supernet.space.num_key_value_heads),
       "Numbers of key-value groups, each with its query heads, ascending, the model's own last; multiples of `tensor_parallel_size`.",
       {.range = kSize, .default_note = "half and all of the model's; matformer, nested_depth: all", .means = kSupernet}},
      {"supernet.queries_per_group",
       KEY_AT(supernet.space.queries_per_group),
       "Query heads of each group, ascending, the model's own last.",
       {.range = kSize, .default_note = "the model's", .means = kSupernet}},
      {"supernet.random_subnets",
       KEY_AT(supernet.random_subnets),
       "Random subnets a step, beside the whole and the smallest; ofa trains one more, and these two only as they are drawn.",
       {.range = {0, 64}, .means = kSamples}},
      {"supernet.start",
       KEY_AT(supernet.start),
       "Steps that train the whole alone.",
       {.range = kSteps, .default_note = "0.537 of `training.steps`", .means = kDelays}},
      {"supernet.ramp",
       KEY_AT(supernet.ramp),
       "Steps after `start` until subnets have their full weight.",
       {.range = kSteps, .default_note = "5/270 of `training.steps`", .means = kRamps}},
      {"supernet.distillation",
       KEY_AT(supernet.distillation),
       "Subnets learn the whole model's own output, detached, not the labels; with ofa that of the whole as it was after step `start`.",
       {.default_note = "`true`; with ofa from step 0 on `false`, unless `model.from` is set", .means = kSamples}},
      {"supernet.temperature",
       KEY_AT(supernet.temperature),
       "Of both distributions when subnets learn the whole's; gradients keep their size.",
       {.range = kPositive, .means = kDistills}},
      {"supernet.label_weight",
       KEY_AT(supernet.label_weight),
       "How much of the labels' loss subnets learn beside the whole's output.",
       {.range = kNotNegative, .default_note = "`0.0`; with ofa `1.0`", .means = kDistills}},
      {"supernet.sort_step",
       KEY_AT(supernet.sort_step),
       "Before this step every elastic axis is put in order of importance, the L1 norm of a channel's weights; 0: never.",
       {.range = kSteps, .default_note = "deps, ofa: the first step after `start`; else 0", .means = kSupernet}},
  };
}

}  // namespace offramp
