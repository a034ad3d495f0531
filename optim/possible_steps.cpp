#include "optim/possible_steps.h"

#include <algorithm>

namespace offramp {
namespace {

bool is_sandwich(const SupernetConfig& supernet) { return supernet.plan == PlanKind::sandwich || supernet.plan == PlanKind::deps; }
bool draws_several(const SupernetConfig& supernet) { return is_sandwich(supernet) || supernet.plan == PlanKind::ofa; }

// Passes over random subnets in one step.
std::int64_t drawn(const SupernetConfig& supernet) { return supernet.random_subnets + (supernet.plan == PlanKind::ofa ? 1 : 0); }

bool has_frozen_teacher(const SupernetConfig& supernet) { return supernet.plan == PlanKind::ofa && supernet.distillation; }

Pass pass_over(const Subnet& subnet, const SupernetConfig& supernet) {
  const Teaching taught = supernet.plan == PlanKind::ofa ? Teaching::frozen : Teaching::whole;
  const bool distills = draws_several(supernet) && supernet.distillation;
  return {.subnet = subnet, .weight = 1, .teaching = distills ? taught : Teaching::labels, .regularise = false};
}

// One narrow subnet of each depth, the deepest first; none, where no width is elastic.
std::vector<Subnet> narrow_depths(const Space& space, const ModelConfig& model) {
  std::vector<Subnet> narrow;
  for (std::size_t i = std::max<std::size_t>(1, space.num_hidden_layers.size()); i-- > 0;) {
    Subnet subnet = smallest(space);
    if (!space.num_hidden_layers.empty()) subnet.num_hidden_layers = space.num_hidden_layers[i];
    subnet = shortened(subnet, model);
    if (!is_whole_width(subnet, model)) narrow.push_back(subnet);
  }
  return narrow;
}

// `begun`, and all lists that go on from it with up to `most` subnets, each not deeper than the one before.
class Lists {
 public:
  Lists(const std::vector<Subnet>& depths, const SupernetConfig& supernet) : depths_(depths), supernet_(supernet) {}
  void append(std::vector<std::vector<Pass>>& all, std::vector<Pass> begun, std::int64_t most, std::size_t deepest = 0) const {
    if (std::ranges::any_of(begun, [](const Pass& pass) { return pass.teaching != Teaching::nobody; })) all.push_back(begun);
    for (std::size_t d = deepest; d < depths_.size() && most > 0; ++d) {
      begun.push_back(pass_over(depths_[d], supernet_));
      append(all, begun, most - 1, d);
      begun.pop_back();
    }
  }

 private:
  const std::vector<Subnet>& depths_;
  const SupernetConfig& supernet_;
};

// Of progressive shrinking: the whole alone before it, and then with smaller ones or without.
void append_shrinking(PossibleSteps& possible, const Lists& lists, const SupernetConfig& supernet) {
  std::vector<Pass> first;
  const Pass whole = has_frozen_teacher(supernet) ? pass_over({}, supernet) : Pass{};
  if (has_frozen_teacher(supernet)) {
    first = {kTeacherPass};
    possible.kinds.insert(possible.kinds.end(), {kTeacherPass, whole});
    possible.shapes.push_back({Pass{}});
  }
  lists.append(possible.shapes, first, drawn(supernet));
  first.push_back(whole);
  lists.append(possible.shapes, first, drawn(supernet));
}

}  // namespace

// Besides its subnets the whole by itself, and a frozen teacher.
double kinds_of(const SupernetConfig& supernet) {
  const double besides = has_frozen_teacher(supernet) ? 2 : draws_several(supernet) ? 1 : 0;
  return count_of(supernet.space) + besides;
}

// Lists of up to n of d depths: (n + d)! / (n! d!); behind the whole, or without it.
double shapes_of(const SupernetConfig& supernet) {
  if (!draws_several(supernet)) return kinds_of(supernet);
  const auto depths = static_cast<double>(std::max<std::size_t>(1, supernet.space.num_hidden_layers.size()));
  double lists = 1;
  const std::int64_t most = drawn(supernet) + (is_sandwich(supernet) ? 1 : 0);
  for (std::int64_t k = 1; k <= most; ++k) lists *= (depths + static_cast<double>(k)) / static_cast<double>(k);
  return supernet.plan == PlanKind::ofa ? 2 * lists : lists;
}

PossibleSteps possible_steps(const SupernetConfig& supernet, const ModelConfig& model) {
  PossibleSteps possible{{Pass{}}, {}};
  if (!draws_several(supernet)) possible.shapes.push_back({Pass{}});
  if (supernet.plan == PlanKind::matformer) {
    for (const std::int64_t size : supernet.space.intermediate_size)
      if (const Subnet subnet = shortened({.intermediate_size = size}, model); subnet != Subnet{}) {
        possible.kinds.push_back({.subnet = subnet});
        possible.shapes.push_back({{.subnet = subnet}});
      }
  }
  if (!draws_several(supernet)) return possible;
  for (auto n = static_cast<std::int64_t>(count_of(supernet.space)); n-- > 0;)
    if (const Subnet subnet = shortened(nth_of(supernet.space, n), model); !is_whole_width(subnet, model))
      possible.kinds.push_back(pass_over(subnet, supernet));
  const std::vector<Subnet> depths = narrow_depths(supernet.space, model);
  const Lists lists(depths, supernet);
  if (is_sandwich(supernet)) lists.append(possible.shapes, {Pass{}}, drawn(supernet) + 1);  // it has the smallest as well
  if (supernet.plan == PlanKind::ofa) append_shrinking(possible, lists, supernet);
  return possible;
}

}  // namespace offramp
