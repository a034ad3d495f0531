// What tests of products and of attention share.
#pragma once
#include <thread>

#include "registry.h"

namespace offramp::testing {

inline std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// A sum of `depth` rounded products strays like a random walk, of as many steps.
inline double sum_bound(std::int64_t depth) { return 4 + 2 * std::sqrt(static_cast<double>(depth)); }

template <class S>
S in_bf16(S sizes) {
  return sizes.type = DType::bf16, sizes;
}

// What plan mode says.
struct Planned {
  Meter meter;
  std::size_t scratch = 0;
};

inline Planned plan(const Case& c) {
  Planned planned;
  Arena memory(Backing::none, kUnlimited), scratch(Backing::none, kUnlimited);
  Tensors tensors;
  for (const Operand& o : c.operands) tensors.by_name[o.name] = memory.tensor(o.shape, o.dtype);
  Context context = context_over(scratch);
  context.meter = &planned.meter;
  c.run(context, tensors);
  planned.scratch = scratch.peak();
  return planned;
}

// What an operation that refuses its operands says.
inline std::string message_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// Ranks that are threads of one process share nothing: each computes the bits that it would alone.
inline void expect_same_on_threads(const std::vector<Case>& cases) {
  std::vector<Result> alone;
  for (const Case& c : cases) alone.push_back(run_case(c));
  std::vector<std::thread> ranks;
  std::vector<int> wrong(4, 0);
  for (std::size_t rank = 0; rank < wrong.size(); ++rank) {
    ranks.emplace_back([&, rank] {
      for (std::size_t i = 0; i < cases.size(); ++i) {
        const Result mine = run_case(cases[i]);
        for (const auto& [name, values] : mine.values) wrong[rank] += !same_bits(values, alone[i].values.at(name));
      }
    });
  }
  for (auto& rank : ranks) rank.join();
  for (const int w : wrong) EXPECT_EQ(w, 0);
}

}  // namespace offramp::testing
