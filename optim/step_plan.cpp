#include "optim/step_plan.h"

#include <algorithm>
#include <optional>
#include <tuple>

#include "tensor/random.h"

namespace offramp {
namespace {

constexpr int kTries = 64;  // to draw a subnet that the step does not have yet

// In the order in which progressive shrinking opens them; depth is open from the beginning.
constexpr std::array kWidths = {&Space::intermediate_size, &Space::num_key_value_heads, &Space::queries_per_group, &Space::hidden_size};

// Axes of more than one size.
Space elastic(Space space) {
  for (const SubnetAxis& axis : subnet_axes())
    if ((space.*axis.choices).size() < 2) (space.*axis.choices).clear();
  return space;
}

bool has_width(const Space& space) {
  return std::ranges::any_of(kWidths, [&](auto width) { return (space.*width).size() > 1; });
}

// Numbers of one step, in the order in which they are asked for.
class Draw {
 public:
  Draw(std::uint64_t seed, std::int64_t t) : key_{seed, Use::subnet, static_cast<std::uint64_t>(t)} {}
  std::int64_t of(const std::vector<std::int64_t>& choices) {
    return choices.empty() ? 0 : choices[static_cast<std::size_t>(bits(key_, next_++) % choices.size())];
  }
  Subnet of(const Space& space) {
    Subnet subnet;
    for (const SubnetAxis& axis : subnet_axes()) subnet.*axis.size = of(space.*axis.choices);
    return subnet;
  }

 private:
  Key key_;
  std::uint64_t next_ = 0;
};

// FLOPs of a layer's products order subnets of one depth well enough.
double layer_size(const ModelConfig& m) {
  const auto h = static_cast<double>(m.hidden_size), heads = static_cast<double>(2 * (m.num_attention_heads + m.num_key_value_heads));
  return h * (heads * static_cast<double>(m.head_size()) + 3 * static_cast<double>(m.intermediate_size));
}

bool is_bigger(const Subnet& a, const Subnet& b, const ModelConfig& model) {
  const ModelConfig first = narrowed(model, a), second = narrowed(model, b);
  return std::tuple(first.num_hidden_layers, layer_size(first), a) > std::tuple(second.num_hidden_layers, layer_size(second), b);
}

// What a pass over the subnet is: one of whole width is the whole, that has it as an exit.
Subnet subnet_of_pass(const Subnet& subnet, const ModelConfig& model) {
  return is_whole_width(subnet, model) ? Subnet{} : shortened(subnet, model);
}

// The one after it in the order of the axes' choices; after the last, the first.
Subnet next_of(const Space& space, Subnet subnet) {
  for (const SubnetAxis& axis : subnet_axes()) {
    const auto& choices = space.*axis.choices;
    if (choices.empty()) continue;
    const auto next = std::ranges::find(choices, subnet.*axis.size) + 1;
    subnet.*axis.size = next == choices.end() ? choices.front() : *next;
    if (next != choices.end()) break;
  }
  return subnet;
}

// A random one that is none of the passes: where many draws found none, hardly any is left, and the next one is looked for in order.
std::optional<Subnet> draw_new(Draw& draw, const Space& space, const std::vector<Pass>& passes, const ModelConfig& model) {
  Subnet subnet = draw.of(space);
  const auto had = [&] {
    return std::ranges::any_of(passes, [&](const Pass& pass) { return pass.subnet == subnet_of_pass(subnet, model); });
  };
  for (int tries = 1; tries < kTries && had(); ++tries) subnet = draw.of(space);
  for (double tries = 0; tries < count_of(space) && had(); ++tries) subnet = next_of(space, subnet);
  if (had()) return std::nullopt;
  return subnet_of_pass(subnet, model);
}

// `count` random subnets of a space beside the passes that there are, or as many as there are others.
void add_random(std::vector<Pass>& passes, const Space& space, std::int64_t count, const Pass& like, const PlanOf& of, std::int64_t t) {
  Draw draw(of.seed, t);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::optional<Subnet> subnet = draw_new(draw, space, passes, of.model);
    if (!subnet) return;
    passes.push_back(like);
    passes.back().subnet = *subnet;
  }
}

void biggest_first(std::vector<Pass>& passes, const ModelConfig& model) {
  std::ranges::stable_sort(passes, [&](const Pass& a, const Pass& b) { return is_bigger(a.subnet, b.subnet, model); });
}

std::vector<Pass> sandwich(const SupernetConfig& supernet, const PlanOf& of, std::int64_t t, double weight) {
  const Space space = elastic(supernet.space);
  std::vector<Pass> passes{Pass{}};
  if (!has_width(space)) return passes;
  const Pass like{
      .subnet = {}, .weight = weight, .teaching = supernet.distillation ? Teaching::whole : Teaching::labels, .regularise = false};
  passes.push_back(like);
  passes.back().subnet = shortened(smallest(space), of.model);
  add_random(passes, space, supernet.random_subnets, like, of, t);
  biggest_first(passes, of.model);
  return passes;
}

// Axes that are open in the phase of step t.
Space open_space(const SupernetConfig& supernet, const PlanOf& of, std::int64_t t) {
  const Space all = elastic(supernet.space);
  Space open;
  open.num_hidden_layers = all.num_hidden_layers;
  std::vector<std::vector<std::int64_t> Space::*> widths;
  std::ranges::copy_if(kWidths, std::back_inserter(widths), [&](auto width) { return !(all.*width).empty(); });
  const auto phases = static_cast<std::int64_t>(widths.size()) + (all.num_hidden_layers.empty() ? 0 : 1);
  const std::int64_t phase = (t - supernet.start - 1) * phases / std::max<std::int64_t>(1, of.steps - supernet.start);
  const std::int64_t opened = std::min(phase + (all.num_hidden_layers.empty() ? 1 : 0), static_cast<std::int64_t>(widths.size()));
  for (std::int64_t i = 0; i < opened; ++i) open.*widths[static_cast<std::size_t>(i)] = all.*widths[static_cast<std::size_t>(i)];
  return open;
}

// As many passes as a sandwich has subnets, and their teacher's.
std::vector<Pass> shrinking(const SupernetConfig& supernet, const PlanOf& of, std::int64_t t) {
  const Pass like{.subnet = {}, .weight = 1, .teaching = supernet.distillation ? Teaching::frozen : Teaching::labels, .regularise = false};
  const Space space = open_space(supernet, of, t);
  std::vector<Pass> passes;
  if (!has_width(space)) passes = {like};
  if (has_width(space)) add_random(passes, space, supernet.random_subnets + 1, like, of, t);
  biggest_first(passes, of.model);
  if (supernet.distillation) passes.insert(passes.begin(), kTeacherPass);
  return passes;
}

Pass one_width(const SupernetConfig& supernet, const PlanOf& of, std::int64_t t) {
  return {.subnet = shortened({.intermediate_size = Draw(of.seed, t).of(supernet.space.intermediate_size)}, of.model)};
}

}  // namespace

double ramp_weight(const SupernetConfig& supernet, const PlanOf& of, std::int64_t t, std::int64_t first) {
  const std::int64_t reached = t - first + 1;
  if (reached >= supernet.ramp) return 1;
  const double linear = static_cast<double>(std::max<std::int64_t>(reached, 0)) / static_cast<double>(supernet.ramp);
  const double rate = of.rate ? of.rate(t) : 0;
  if (rate == 0) return linear;  // of SGD: nothing moves
  return linear * of.rate(std::min(first + supernet.ramp, of.steps)) / rate;
}

StepPasses step_passes(const SupernetConfig& supernet, const PlanOf& of, std::int64_t t) {
  StepPasses step{.sorts = t == supernet.sort_step, .takes_teacher = false, .passes = {Pass{}}};
  const bool shrinks = t > supernet.start;
  switch (supernet.plan) {
    case PlanKind::full:
    case PlanKind::nested_depth:
      break;
    case PlanKind::sandwich:
      step.passes = sandwich(supernet, of, t, 1);
      break;
    case PlanKind::deps:
      if (shrinks) step.passes = sandwich(supernet, of, t, ramp_weight(supernet, of, t, supernet.start + 1));
      break;
    case PlanKind::ofa:
      if (shrinks) step.passes = shrinking(supernet, of, t);
      step.takes_teacher = supernet.distillation && t == supernet.start + 1;
      break;
    case PlanKind::matformer:
      step.passes = {one_width(supernet, of, t)};
      break;
  }
  return step;
}

}  // namespace offramp
