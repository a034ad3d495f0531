#include "trainer/cluster_file.h"

#include <algorithm>
#include <cmath>
#include <variant>

#include "tensor/check.h"
#include "trainer/schema.h"
#include "trainer/yaml.h"

namespace offramp {
namespace {

using ClusterField = std::variant<double*, int*, bool*, std::array<double, 3>*>;
struct ClusterKey {
  std::string path;
  ClusterField field;
  ValueRange range{};
};

constexpr ValueRange kPositive{.min = 0, .above_min = true}, kNotNegative{.min = 0}, kShare{.min = 0, .max = 1, .above_min = true};

// What a file may set. `times` belongs to the cluster only where the file names it.
std::vector<ClusterKey> keys_of(Cluster& c, GivenTimes& times) {
  return {{"peak_flops.fp32", &c.fp32_flops, kPositive},
          {"peak_flops.bf16", &c.bf16_flops, kPositive},
          {"memory.bytes", &c.memory, kPositive},
          {"memory.bandwidth", &c.memory_bandwidth, kPositive},
          {"launch_latency", &c.launch, kNotNegative},
          {"product.efficiency", &c.efficiency, kShare},
          {"product.half_size", &c.half_size, kNotNegative},
          {"attention.kernel", &c.fused_attention},
          {"attention.efficiency", &c.attention_efficiency, kShare},
          {"ranks_per_node", &c.ranks_per_node, {.min = 1, .max = 1e6}},
          {"inside_node.bandwidth", &c.inside.bandwidth, kPositive},
          {"inside_node.latency", &c.inside.latency, kNotNegative},
          {"between_nodes.bandwidth", &c.between.bandwidth, kPositive},
          {"between_nodes.latency", &c.between.latency, kNotNegative},
          {"times.layer", &times.layer, kNotNegative},
          {"times.head", &times.head, kNotNegative},
          {"times.embedding", &times.embedding, kNotNegative},
          {"times.message", &times.message, kNotNegative}};
}

using Wrong = std::optional<std::string>;

Wrong read_whole(int& to, const ValueRange& range, const YamlNode& node) {
  double value = 0;
  if (Wrong wrong = read_real(value, range, node)) return wrong;
  if (value != std::floor(value)) return fmt::format("expected an integer, found {}", quote(node.text));
  to = static_cast<int>(value);
  return std::nullopt;
}

Wrong read_kernel(bool& fused, const YamlNode& node) {
  if (node.text != "fused" && node.text != "unfused") return fmt::format("{} is not one of fused, unfused", quote(node.text));
  fused = node.text == "fused";
  return std::nullopt;
}

Wrong read_three(std::array<double, 3>& to, const ValueRange& range, const YamlNode& node) {
  if (node.kind != YamlNode::Kind::list || node.items.size() != 3)
    return "expected three numbers: forward, gradient of the input, gradient of the weights";
  for (std::size_t i = 0; i < 3; ++i)
    if (Wrong wrong = read_real(to[i], range, node.items[i])) return wrong;
  return std::nullopt;
}

Wrong read_field(const ClusterKey& key, const YamlNode& node) {
  if (auto* const* real = std::get_if<double*>(&key.field)) return read_real(**real, key.range, node);
  if (auto* const* whole = std::get_if<int*>(&key.field)) return read_whole(**whole, key.range, node);
  if (auto* const* kernel = std::get_if<bool*>(&key.field)) return read_kernel(**kernel, node);
  return read_three(*std::get<std::array<double, 3>*>(key.field), key.range, node);
}

void read_map(const YamlNode& map, const std::string& above, const std::vector<ClusterKey>& keys, Problems& problems) {
  for (const YamlEntry& entry : map.entries) {
    const std::string path = above + entry.key;
    const auto key = std::ranges::find(keys, path, &ClusterKey::path);
    const bool section = std::ranges::any_of(keys, [&](const ClusterKey& k) { return k.path.starts_with(path + "."); });
    if (key != keys.end()) {
      if (const Wrong wrong = read_field(*key, entry.value)) problems.push_back({entry.value.at, fmt::format("{}: {}", path, *wrong)});
    } else if (section && entry.value.kind == YamlNode::Kind::map) {
      read_map(entry.value, path + ".", keys, problems);
    } else if (section) {
      problems.push_back({entry.value.at, fmt::format("{}: expected a map", path)});
    } else {
      std::vector<std::string> names;
      for (const ClusterKey& k : keys) names.push_back(k.path);
      problems.push_back({entry.at, fmt::format("unknown key {}: did you mean {}?", quote(path), nearest(path, names))});
    }
  }
}

}  // namespace

Cluster read_cluster(const std::string& path) {
  Problems problems;
  YamlNode root = read_yaml_file(path, problems).root;
  Cluster cluster;
  GivenTimes times;
  read_map(root, "", keys_of(cluster, times), problems);
  if (!problems.empty()) refuse_configuration(std::move(problems));
  if (root.entry("times")) cluster.times = times;
  return cluster;
}

}  // namespace offramp
