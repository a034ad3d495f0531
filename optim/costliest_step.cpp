#include "optim/costliest_step.h"

#include <algorithm>
#include <limits>
#include <tuple>

namespace offramp {
namespace {

bool is_sandwich(const SupernetConfig& supernet) { return supernet.plan == PlanKind::sandwich || supernet.plan == PlanKind::deps; }

// Passes of a step at most; the shapes of possible_steps() are more than there are.
std::size_t most_passes(const SupernetConfig& supernet) {
  const auto random = static_cast<std::size_t>(supernet.random_subnets);
  return is_sandwich(supernet) ? 2 + random : supernet.plan == PlanKind::ofa ? 1 + random : 1;
}

std::int64_t depth_of(const Pass& pass) {
  return pass.subnet.num_hidden_layers > 0 ? pass.subnet.num_hidden_layers : std::numeric_limits<std::int64_t>::max();
}

}  // namespace

std::vector<Pass> costliest_step(const SupernetConfig& supernet, const ModelConfig& model, const std::function<double(const Pass&)>& cost) {
  std::vector<std::pair<double, Pass>> kinds, passes;
  const std::vector<Pass> possible = possible_steps(supernet, model).kinds;
  const bool teacher = std::ranges::count(possible, kTeacherPass) > 0;
  for (const Pass& kind : possible) kinds.emplace_back(cost(kind), kind);
  if (teacher) std::erase_if(kinds, [](const auto& kind) { return kind.second.teaching != Teaching::frozen; });
  std::ranges::stable_sort(kinds, [](const auto& a, const auto& b) { return a.first > b.first; });
  const auto add = [&](const auto& kind) {
    const bool had = std::ranges::any_of(passes, [&](const auto& pass) { return pass.second.subnet == kind.second.subnet; });
    if (!had && passes.size() < most_passes(supernet)) passes.push_back(kind);
  };
  for (const Subnet& always : {Subnet{}, shortened(smallest(supernet.space), model)})
    for (const auto& kind : kinds)
      if (is_sandwich(supernet) && kind.second.subnet == always) add(kind);
  std::ranges::for_each(kinds, add);
  std::ranges::stable_sort(passes, [](const auto& a, const auto& b) {  // the deepest first, as the pipeline has them
    return std::tuple(depth_of(a.second), a.first) > std::tuple(depth_of(b.second), b.first);
  });
  std::vector<Pass> step;
  if (teacher) step.push_back(kTeacherPass);
  for (const auto& [once, pass] : passes) step.push_back(pass);
  return step;
}

}  // namespace offramp
