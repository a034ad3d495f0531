// A supernet: the defaults of its keys, and what it cannot be.
#include <cmath>
#include <span>

#include "optim/possible_steps.h"
#include "trainer/config_checker.h"

namespace offramp {
namespace {

using Sizes = std::vector<std::int64_t>;

// So many parts of `all`, those that are whole multiples of `unit`; the last is all.
Sizes parts_of(std::int64_t all, std::int64_t parts, std::int64_t unit) {
  Sizes sizes;
  for (std::int64_t k = 1; k < parts; ++k)
    if (all * k % (parts * unit) == 0) sizes.push_back(all * k / parts);
  sizes.push_back(all);
  return sizes;
}

Sizes depths_of(const Config& config) {
  Sizes depths{config.model.num_hidden_layers};
  for (const ExitSpec& exit : config.exits)
    if (exit.layer < config.model.num_hidden_layers) depths.push_back(exit.layer);
  std::ranges::sort(depths);
  return depths;
}

// Sizes that are missing or wrong have no parts.
bool knows_model(const std::set<std::string>& unknown) {
  return std::ranges::none_of(unknown, [](const std::string& path) { return path.starts_with("model"); });
}

}  // namespace

void settle_supernet(Config& config, const Locations& at, const std::set<std::string>& unknown) {
  SupernetConfig& supernet = config.supernet;
  const ModelConfig& m = config.model;
  if (!supernet.enabled || !knows_model(unknown)) return;
  const auto follow = [&](const char* key, auto& value, auto other) {
    if (!at.given(std::string("supernet.") + key)) value = other;
  };
  const std::int64_t tensor = config.parallel.tensor_parallel_size, steps = config.training.steps;
  const bool widths = supernet.plan != PlanKind::nested_depth;
  const bool heads = widths && supernet.plan != PlanKind::matformer && !m.gpt2();  // a stock GPT-2 has no other width of its heads
  follow("num_hidden_layers", supernet.space.num_hidden_layers, depths_of(config));
  follow("hidden_size", supernet.space.hidden_size, Sizes{m.hidden_size});
  follow("intermediate_size", supernet.space.intermediate_size, parts_of(m.intermediate_size, widths ? 4 : 1, tensor));
  follow("num_key_value_heads", supernet.space.num_key_value_heads, parts_of(m.num_key_value_heads, heads ? 2 : 1, tensor));
  follow("queries_per_group", supernet.space.queries_per_group, Sizes{m.queries_per_group()});
  const bool delays = supernet.plan == PlanKind::deps || supernet.plan == PlanKind::ofa;
  follow("start", supernet.start, delays ? std::llround(0.537 * static_cast<double>(steps)) : 0);
  follow("ramp", supernet.ramp, std::max<std::int64_t>(1, std::llround(static_cast<double>(steps) * 5 / 270)));
  const bool has_teacher = supernet.plan != PlanKind::ofa || supernet.start > 0 || !config.model_from.empty();
  follow("distillation", supernet.distillation, has_teacher);
  follow("label_weight", supernet.label_weight, supernet.plan == PlanKind::ofa ? 1.0 : 0.0);
  follow("sort_step", supernet.sort_step, delays && supernet.start < steps ? supernet.start + 1 : 0);
}

void ConfigChecker::subnet_axis(std::string_view name, const Sizes& choices, std::int64_t whole) {
  const std::string path = fmt::format("supernet.{}", name);
  if (!known({path, fmt::format("model.{}", name)}) || choices.empty()) return;
  const std::set<std::int64_t> ascending(choices.begin(), choices.end());
  if (!std::ranges::equal(ascending, choices))
    return blame(path, "[{}] does not ascend; write [{}]", fmt::join(choices, ", "), fmt::join(ascending, ", "));
  if (choices.back() != whole) blame(path, "ends with {}, but the model's own is {}; make that the last", choices.back(), whole);
}

void ConfigChecker::subnet_depths() {
  const std::string_view path = "supernet.num_hidden_layers";
  if (!known({path, "exits", "model.num_hidden_layers"})) return;
  for (const std::int64_t depth : config.supernet.space.num_hidden_layers) {
    const auto there = [&](const ExitSpec& exit) { return exit.layer == depth; };
    if (depth >= config.model.num_hidden_layers || std::ranges::any_of(config.exits, there)) continue;
    blame(path, "a subnet of {} layers would end without a head; add {{layer: {}, loss_weight: 0.25}} to `exits`", depth, depth);
  }
}

void ConfigChecker::subnet_widths() {
  const Space& space = config.supernet.space;
  const std::int64_t tensor = config.parallel.tensor_parallel_size;
  const auto divides = [&](std::string_view path, const Sizes& choices) {
    if (!known({path, "parallel.tensor_parallel_size"}) || choices.empty()) return;
    for (const std::int64_t size : std::span(choices).first(choices.size() - 1))  // the model's own is judged with the model
      if (size % tensor != 0)
        return blame(path, "{} is not divisible by tensor_parallel_size {}; the nearest multiple is {}", size, tensor,
                     std::max<std::int64_t>(1, (size + tensor / 2) / tensor) * tensor);
  };
  divides("supernet.intermediate_size", space.intermediate_size);
  divides("supernet.num_key_value_heads", space.num_key_value_heads);
}

// What nothing would train, or nobody could read.
void ConfigChecker::subnet_plan() {
  const PlanKind plan = config.supernet.plan;
  const auto refuse = [&](std::initializer_list<const char*> axes, std::string_view why) {
    for (const SubnetAxis& axis : subnet_axes())
      if (std::ranges::count(axes, std::string_view(axis.name)) > 0 && (config.supernet.space.*axis.choices).size() > 1)
        blame(fmt::format("supernet.{}", axis.name), "{}", why);
  };
  if (config.model.gpt2() && known({"model.architecture"}))
    return refuse({"hidden_size", "num_key_value_heads", "queries_per_group"},
                  "a stock GPT-2 has no heads narrower than its width; leave it one size, or take llama");
  if (!known({"supernet.plan"})) return;
  if (plan == PlanKind::nested_depth)
    refuse({"hidden_size", "intermediate_size", "num_key_value_heads", "queries_per_group"},
           "nested_depth trains depths alone; leave it one size, or name another plan");
  if (plan == PlanKind::matformer)
    refuse({"hidden_size", "num_key_value_heads", "queries_per_group"},
           "matformer trains widths of the MLPs alone; leave it one size, or name another plan");
  if (plan == PlanKind::matformer && config.supernet.space.intermediate_size.size() == 1 && known({"supernet.intermediate_size"}))
    blame("supernet.plan", "matformer draws a width of the MLPs, and there is one alone; give intermediate_size several");
}

void ConfigChecker::subnet_layout() {
  const ParallelConfig& p = config.parallel;
  const auto refuse = [&](std::string_view path, bool given, std::string_view why) {
    if (given && known({path})) blame(path, "{}", why);
  };
  refuse("training.freeze", config.frozen_backbone(), "subnets are trained with the backbone; set none, or remove `supernet`");
  refuse("parallel.fill_bubbles", p.fill_bubbles != "none", "a supernet has no partial microbatches; set none, or remove `supernet`");
  refuse("parallel.shard_heads_over_pipeline", p.shard_heads_over_pipeline, "heads of subnets are whole; set false, or remove `supernet`");
  refuse("parallel.memory_limit", p.memory_limit > 0, "a supernet's schedules are not chosen by memory; remove this key");
  refuse("parallel.in_flight", at.given("parallel.in_flight") && !p.in_flight.text.starts_with("1f1b"),
         "a supernet's stages keep as many passes as 1F1B, or K more: write 1f1b+K");
  refuse("parallel.virtual_stages", p.virtual_stages > 1, "a supernet runs one stage a rank; set 1");
  refuse("parallel.schedule", p.schedule == "auto" || p.schedule.starts_with(kScheduleFile),
         "a supernet's steps differ, and each has a schedule by name: use 1f1b, gpipe or zero_bubble");
}

void ConfigChecker::subnet_steps() {
  const SupernetConfig& s = config.supernet;
  const std::int64_t steps = config.training.steps;
  const auto within = [&](std::string_view path, std::int64_t step) {
    if (known({path, "training.steps"}) && steps > 0 && at.given(path) && step > steps)
      blame(path, "{} is after the last step; the nearest is {}", step, steps);
  };
  within("supernet.start", s.start);
  within("supernet.sort_step", s.sort_step);
}

// Weights that were just drawn teach nothing.
void ConfigChecker::subnet_teacher() {
  const SupernetConfig& s = config.supernet;
  const bool taught = s.plan == PlanKind::ofa && s.distillation && known({"supernet.plan", "supernet.distillation"});
  if (taught && s.start == 0 && config.model_from.empty() && known({"supernet.start", "model.from"}))
    blame("supernet.distillation",
          "ofa's teacher would be the whole before its first step; set start to 1 or more, name model.from, or set distillation: false");
}

// A job prepares for all that its steps may be.
void ConfigChecker::subnet_counts() {
  if (kinds_of(config.supernet) > kMostKinds)
    return blame("supernet", "{} subnets; at most {} are planned for: give its axes fewer sizes", count_of(config.supernet.space),
                 kMostKinds);
  if (shapes_of(config.supernet) > kMostShapes && known({"supernet.random_subnets"}))
    blame("supernet.random_subnets", "{} of {} depths make more than {} kinds of steps; take fewer", config.supernet.random_subnets,
          config.supernet.space.num_hidden_layers.size(), kMostShapes);
}

void ConfigChecker::supernet() {
  const Space& space = config.supernet.space;
  if (!config.supernet.enabled || !known({"supernet"})) return;
  subnet_depths();
  subnet_widths();
  subnet_plan();
  subnet_layout();
  subnet_steps();
  subnet_teacher();
  subnet_counts();
  if (!knows_model(unknown)) return;
  const Subnet whole = spelled_out({}, config.model);
  for (const SubnetAxis& axis : subnet_axes()) subnet_axis(axis.name, space.*axis.choices, whole.*axis.size);
  const auto elastic = [&](const SubnetAxis& axis) { return (space.*axis.choices).size() > 1; };
  if (std::ranges::none_of(subnet_axes(), elastic) && known({"exits"}))
    blame("supernet", "every subnet would be the whole model; add `exits`, or give an axis, such as intermediate_size, several sizes");
}

}  // namespace offramp
