// Subnets of a once-for-all model (OFA, arXiv 1908.09791; DepS, 2407.06167): a true slice of the whole, the first so many of each elastic
// axis, the same in every layer. Canonical order is order of importance, and under tensor parallelism blocks are dealt out in turn
// (models/tensor_parallel.h), so that a slice is a prefix on every rank. A subnet is itself a model: narrowed() gives its sizes.
//
//   const Subnet small = {.num_hidden_layers = 4, .intermediate_size = 172};
//   const ModelConfig alone = narrowed(config, small);
#pragma once
#include <compare>
#include <string>
#include <vector>

#include "models/config.h"

namespace offramp {

// The sizes that a subnet runs, by their Hugging Face names; queries_per_group: query heads of each key-value group. 0: all of them.
struct Subnet {
  std::int64_t num_hidden_layers = 0, hidden_size = 0, intermediate_size = 0, num_key_value_heads = 0, queries_per_group = 0;
  auto operator<=>(const Subnet&) const = default;
};

// The same with every size spelled out, and with 0 for every size that is the model's own.
Subnet spelled_out(const Subnet& subnet, const ModelConfig& model);
Subnet shortened(const Subnet& subnet, const ModelConfig& model);
// Sizes of the subnet as a model of its own. Heads keep their size, so that head_dim may be written out.
ModelConfig narrowed(const ModelConfig& model, const Subnet& subnet);
// It leaves none of the model's width out: it is an exit of the whole.
bool is_whole_width(const Subnet& subnet, const ModelConfig& model);

// {"intermediate_size":172,"num_hidden_layers":4}: the sizes that are not the model's own; {}: the whole.
std::string to_text(const Subnet& subnet);

// The sizes that subnets may have, in ascending order; the last of each is the model's own. Empty axes have that one alone.
struct Space {
  std::vector<std::int64_t> num_hidden_layers, hidden_size, intermediate_size, num_key_value_heads, queries_per_group;
  bool operator==(const Space&) const = default;
  bool empty() const { return *this == Space{}; }
};

// An axis of a space beside the size of a subnet that it is of.
struct SubnetAxis {
  const char* name;
  std::int64_t Subnet::*size;
  std::vector<std::int64_t> Space::*choices;
};
const std::vector<SubnetAxis>& subnet_axes();

Subnet smallest(const Space& space);                // the first of each axis
double count_of(const Space& space);                // how many subnets there are
Subnet nth_of(const Space& space, std::int64_t n);  // of all of them, n below count_of(): the whole last
// What of the subnet the space does not have: "intermediate_size 100: the choices are 172, 344, 688"; empty: it has all.
std::string misfit(const Subnet& subnet, const Space& space, const ModelConfig& model);

}  // namespace offramp
