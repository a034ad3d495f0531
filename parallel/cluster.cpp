#include "parallel/cluster.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

namespace offramp {
namespace {

bool is_product(const Metered& call) { return call.cost.product[0] > 0; }

double volume(const std::array<double, 3>& p) { return p[0] * p[1] + p[0] * p[2] + p[1] * p[2]; }

// Of products that were cut by tokens, the whole: all read the same matrix (of a weight gradient: write it).
class Products {
 public:
  void add(const Metered& call) {
    const std::array<double, 3>& p = call.cost.product;
    const std::size_t tokens = std::string_view(call.name) == "linear_backward_weight" ? 2 : 0;
    auto key = std::tuple(std::string_view(call.name), tokens == 2 ? p[0] : p[2], p[1]);
    const auto [it, first] = wholes_.try_emplace(key, call.cost);
    if (!first) {
      const double element = it->second.bytes / volume(it->second.product);
      it->second.product[tokens] += p[tokens];
      it->second.flops += call.cost.flops;
      it->second.bytes = element * volume(it->second.product);
    }
  }
  template <class F>
  double sum(F seconds) const {
    double all = 0;
    for (const auto& [key, cost] : wholes_) all += seconds(cost);
    return all;
  }

 private:
  std::map<std::tuple<std::string_view, double, double>, Cost> wholes_;
};

double efficiency_of(const Cost& cost, const Cluster& cluster) {
  const auto [m, n, k] = cost.product;
  const double d = 1 / (1 / m + 1 / n + 1 / k);
  return cluster.efficiency * d / (d + cluster.half_size);
}

double roofline(double flops_per_s, const Cost& cost, const Cluster& cluster) {
  const double arithmetic = cost.flops > 0 ? cost.flops / flops_per_s : 0;
  return std::max(arithmetic, cost.bytes / cluster.memory_bandwidth) + cluster.launch;
}

// Scores of all pairs of tokens go to memory and come back: written by a product, scaled, masked and normalised, dropped, read by a
// product; backward the same with two products each, and the probabilities are read once more. Fused attention counts the lower half only;
// these products make all of it.
double unfused_attention(const Metered& call, const Setting& setting, double peak, const Cluster& cluster) {
  const bool backward = std::string_view(call.name) == "attention_backward";
  const double forward_flops = 2 * call.cost.flops / (backward ? 2.5 : 1);
  const double scores = forward_flops / (4 * setting.head_size), element = setting.bf16 ? 2 : 4;  // two products of 2 d each a score
  const double passes = (setting.dropout ? 4 : 2) * element + (setting.dropout ? 1 : 0) + (backward ? element : 0);  // a byte of mask
  const Cost product{.flops = forward_flops / 2, .bytes = scores * element, .product = {}};
  const double d = setting.head_size;
  const double speed = peak * cluster.efficiency * d / (d + cluster.half_size);
  const int products = backward ? 4 : 2;
  return products * roofline(speed, product, cluster) + scores * passes / cluster.memory_bandwidth +
         (setting.dropout ? 2 : 1) * cluster.launch;
}

double attention(const Metered& call, const Setting& setting, double peak, const Cluster& cluster) {
  if (!cluster.fused_attention) return unfused_attention(call, setting, peak, cluster);
  return roofline(peak * cluster.attention_efficiency, call.cost, cluster);
}

}  // namespace

const Link& link_of(std::string_view wire, const Degrees& degrees, const Cluster& cluster) {
  const int reach = wire == "tensor" ? degrees.tensor : wire == "pipeline" ? degrees.tensor * degrees.pipeline : degrees.world();
  return reach <= cluster.ranks_per_node ? cluster.inside : cluster.between;
}

double seconds_of(const Metered& message, const Link& link) {
  const std::string_view name = message.name;
  const int steps = name == "send" ? 1 : name == "all_reduce" ? 2 * (message.ranks - 1) : message.ranks - 1;
  return message.sent / link.bandwidth + steps * link.latency;
}

double seconds_of(std::span<const Metered> calls, const Setting& setting, const Cluster& cluster) {
  const double peak = setting.bf16 ? cluster.bf16_flops : cluster.fp32_flops;
  Products products;
  double seconds = 0;
  for (const Metered& call : calls) {
    if (call.ranks > 0) {
      seconds += seconds_of(call, link_of(call.wire, setting.degrees, cluster));
    } else if (is_product(call)) {
      products.add(call);
    } else if (std::string_view(call.name).starts_with("attention")) {
      seconds += attention(call, setting, peak, cluster);
    } else {
      seconds += roofline(peak, {.flops = 0, .bytes = call.cost.bytes, .product = {}}, cluster);
    }
  }
  return seconds + products.sum([&](const Cost& cost) { return roofline(peak * efficiency_of(cost, cluster), cost, cluster); });
}

}  // namespace offramp
