// Cluster: the machines that a job is planned for, in a few physical numbers, and what operations and messages take on them.
//
//   const Cluster cluster = read_cluster("configs/clusters/h100.yaml");   // trainer/cluster_file.h
//   seconds_of(calls, setting, cluster)                                   // calls: what plan mode counted (Meter::each)
#pragma once
#include <array>
#include <optional>
#include <span>
#include <string>

#include "comm/mesh.h"

namespace offramp {

struct Link {
  double bandwidth = 0;  // bytes a second that one rank sends, while all others of its node do
  double latency = 0;    // seconds of a message, or of each step of a ring
};

// Times given directly, in seconds, for one microbatch on one rank: forward, gradient of the input, gradient of the weights.
struct GivenTimes {
  std::array<double, 3> layer{}, head{}, embedding{};
  double message = 0;
};

// By default a node of eight H100 SXM: configs/clusters/h100.yaml says the same.
struct Cluster {
  double fp32_flops = 67e12, bf16_flops = 989e12;  // a second and rank, of matrix products: the peak
  double memory = 80e9;                            // bytes a rank
  double memory_bandwidth = 2.6e12;                // bytes a second and rank, as a kernel has it
  double launch = 3e-6;                            // seconds before each operation
  int ranks_per_node = 8;
  Link inside{360e9, 6e-6}, between{45e9, 12e-6};  // nodes
  // A product of m x k by k x n has, of the peak, efficiency * d / (d + half_size), where 1/d = 1/m + 1/n + 1/k: its arithmetic
  // intensity in elements. half_size is where moving data takes as long as the arithmetic.
  double efficiency = 0.75, half_size = 150;
  double attention_efficiency = 0.5;  // of the peak, where attention is fused
  bool fused_attention = true;        // false: attention writes all its probabilities to memory, as kernels once did
  std::optional<GivenTimes> times{};  // set: nothing else is asked
};

// What the numbers of a cluster meet.
struct Setting {
  Degrees degrees;
  bool bf16 = true;
  double head_size = 64;  // of attention
  bool dropout = false;   // of attention's probabilities
};

// The link that a group's messages cross: tensor ranks are neighbours, then pipeline ranks, then data ranks.
const Link& link_of(std::string_view wire, const Degrees& degrees, const Cluster& cluster);
double seconds_of(const Metered& message, const Link& link);
// Products that share a matrix and were cut by rows, so that messages travel under them, count as one.
double seconds_of(std::span<const Metered> calls, const Setting& setting, const Cluster& cluster);

}  // namespace offramp
