// Cluster files: YAML like a configuration, refused alike with everything that is wrong. docs/planning.md describes the keys.
//
//   const Cluster cluster = read_cluster("configs/clusters/a100.yaml");   // throws Error(Exit::configuration)
#pragma once
#include <string>

#include "parallel/cluster.h"

namespace offramp {

Cluster read_cluster(const std::string& path);
// This machine: products, copies and attention on so many threads, and messages between two threads, measured in about a second.
Cluster measure_cluster(DType precision, int threads);

}  // namespace offramp
