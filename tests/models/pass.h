// One forward and backward of a unit or a head of a tiny model, over a tensor group of threads, and everything that came of it: so that
// two ways to compute the same can be compared by name, whatever their layout.
//
//   const Outcome alone = run({}, part);   Setting s;  s.size = 2;   expect_close(run(s, part), alone, kAnotherOrder);
//
// A *subnet* of the model is run as a slice of it, all the rest of its weights and gradients being NaN; or, to compare, as the model of
// its own sizes that has the slice's weights.
#pragma once
#include <array>
#include <map>

#include "rig.h"
#include "tests/close.h"

namespace offramp::testing {

// Numbers of which each rank of a group holds all, or its part (with zeros elsewhere), or its summand.
struct Numbers {
  bool everywhere = false;
  std::vector<float> values;
};
using Outcome = std::map<std::string, Numbers>;  // "y", "dx", "sums", and gradients by logical name: of a subnet, its slice of them

struct Setting {
  ModelConfig config = tiny_config();
  DType precision = DType::f32;
  Draws draws;
  bool detach = false;
  bool taught = false;  // exits stand beside the final head as their teacher
  Target target = Target::labels;
  float temperature = 1;
  int size = 1;  // of the tensor group
  bool sequence = false;
  Space space{};
  Subnet subnet{};
  bool by_itself = false;  // as the model of the subnet's sizes
  Keep keep = Keep::everything;
  bool deferred = false;  // a unit's weight gradients wait
};

constexpr std::array kParts{"embedding", "attention", "mlp", "bare", "norm", "mlp_head", "block_head", "attention_head", "final"};
constexpr int kUnits = 3;

Outcome run(const Setting& setting, int part);
void expect_close(const Outcome& outcome, const Outcome& expected, double tolerance);

// Products of at most 264 terms, summed in another order, behind a few others: fp32 rounds each addition by 2^-24 of a sum that grows
// like the root of the terms, so that 32 roundings are far from reached.
constexpr double kAnotherOrder = 32 * 0x1p-24;
// In bf16 at most two dozen tensors lie between x and a gradient, each rounded by at most 2^-9 of every element.
constexpr double kBf16 = 24 * 0x1p-9;

}  // namespace offramp::testing
