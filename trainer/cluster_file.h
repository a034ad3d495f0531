// Cluster files: YAML like a configuration, refused alike with everything that is wrong. docs/planning.md describes the keys.
//
//   const Cluster cluster = read_cluster("configs/clusters/a100.yaml");   // throws Error(Exit::configuration)
#pragma once
#include <string>

#include "parallel/cluster.h"

namespace offramp {

Cluster read_cluster(const std::string& path);
// This machine: products, copies and attention on so many threads, by as many of the ranks at once as it has cores for, and messages
// between two threads. Takes a few seconds.
Cluster measure_cluster(DType precision, int threads, int ranks);

}  // namespace offramp
