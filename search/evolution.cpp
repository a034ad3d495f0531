#include "search/evolution.h"

#include <algorithm>
#include <map>

#include "tensor/random.h"

namespace offramp {
namespace {

class Evolution {
 public:
  explicit Evolution(const EvolutionOptions& options) : options_(options), key_{options.seed, Use::subnet, hash("search: evolution")} {}

  std::vector<Subnet> run(std::size_t count) {
    for (const Subnet& subnet : options_.begin) meet(subnet);
    for (int i = 0; i < options_.population; ++i) meet(random());
    for (int generation = 0; generation < options_.generations && !met_.empty(); ++generation) {
      const std::vector<Subnet> parents = best(static_cast<std::size_t>(options_.parents));
      for (int i = 0; i < options_.population; ++i) meet(child_of(parents));
    }
    return best(count);
  }

 private:
  void meet(const Subnet& subnet) {
    const Subnet shorter = shortened(subnet, options_.model);
    if (!met_.contains(shorter) && options_.cost(shorter) <= options_.limit) met_[shorter] = options_.loss(shorter);
  }

  std::vector<Subnet> best(std::size_t count) const {
    std::vector<std::pair<double, Subnet>> order;
    for (const auto& [subnet, loss] : met_) order.emplace_back(loss, subnet);
    std::ranges::sort(order);
    std::vector<Subnet> subnets;
    for (std::size_t i = 0; i < std::min(count, order.size()); ++i) subnets.push_back(order[i].second);
    return subnets;
  }

  std::size_t draw(std::size_t choices) { return static_cast<std::size_t>(bits(key_, next_++) % choices); }
  bool chance(double part) { return static_cast<double>(uniform(key_, next_++)) < part; }
  Subnet random() { return nth_of(options_.space, static_cast<std::int64_t>(draw(static_cast<std::size_t>(count_of(options_.space))))); }

  Subnet child_of(const std::vector<Subnet>& parents) {
    const Subnet first = parents[draw(parents.size())], second = parents[draw(parents.size())], other = random();
    Subnet child;
    for (const SubnetAxis& axis : subnet_axes())
      child.*axis.size = chance(options_.mutation) ? other.*axis.size : chance(0.5) ? first.*axis.size : second.*axis.size;
    return child;
  }

  const EvolutionOptions& options_;
  std::map<Subnet, double> met_;  // that keep to the limit, with their losses
  Key key_;
  std::uint64_t next_ = 0;
};

}  // namespace

std::vector<Subnet> evolve(const EvolutionOptions& options, std::size_t count) { return Evolution(options).run(count); }

}  // namespace offramp
