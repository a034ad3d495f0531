// The checker that every operation of tensor/ops.h goes through. A Case names an operation's operands, runs it, and gives a naive
// reference in double precision; check_case() then proves, for one set of shapes:
//   the values; that "=" overwrites and "+=" adds (outputs start as NaN, or as numbers); that nothing else is written (guard words,
//   inputs, the columns beside a narrowed operand); that every optional operand may be undefined without changing the other
//   outputs; that allowed aliases give the same bits; that 1 and 2 threads give the same bits; and that plan mode touches nothing,
//   counts something, and takes exactly the scratch of a real run.
// check_gradient() compares the reference of a backward with finite differences of the reference of its forward.
//
//   Case scale_case(std::int64_t n) {                                            // an operation y = 2 x
//     return {.name = fmt::format("scale n={}", n),
//             .operands = {output("y", {n}), input("x", {n})},
//             .run = [](Context& c, const Tensors& t) { scale(c, t["y"], t["x"]); },
//             .reference = [](Values& v) { for (std::size_t i = 0; i < v["x"].size(); ++i) v["y"][i] = 2 * v["x"][i]; }};
//   }
//   TEST(Pointwise, Scale) { for (std::int64_t n : {1, 7, 100'000}) check_case(scale_case(n)); }
#pragma once
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "tensor/check.h"
#include "tensor/ops.h"
#include "tensor/random.h"

namespace offramp::testing {

// Operands in double precision by name, row-major: what a reference reads and writes.
using Values = std::map<std::string, std::vector<double>>;
using Fill = std::function<double(std::int64_t)>;  // an operand's value at a row-major index

// Operands as the operation gets them, by name. A name that is no operand, or one left out, is an undefined tensor.
struct Tensors {
  std::map<std::string, Tensor> by_name;
  Tensor operator[](const std::string& name) const {
    const auto it = by_name.find(name);
    return it == by_name.end() ? Tensor{} : it->second;
  }
};

enum class Role { input, output, updated };  // read | "=", starts as NaN | "+=" or in place, starts as numbers

struct Operand {
  std::string name;
  Role role = Role::input;
  Shape shape;
  DType dtype = DType::f32;
  Fill fill;               // undefined: normal numbers, another sequence for every name
  std::int64_t wider = 0;  // a narrow of a tensor whose dimension 1 has this many more columns
  bool optional = true;    // of an output: may be undefined. An input is never left out
  double bound = 8;        // allowed error, in units of 2^-24 (f64: 2^-53) of |value| + the largest |value| of the operand; bf16
                           // may be off by its own rounding, 2^-8 of |value|, besides
};

inline Operand input(std::string name, Shape shape, Fill fill = {}) {
  return {.name = std::move(name), .shape = shape, .fill = std::move(fill)};
}
inline Operand ids(std::string name, Shape shape, Fill fill) {
  return {.name = std::move(name), .shape = shape, .dtype = DType::i32, .fill = std::move(fill)};
}
inline Operand output(std::string name, Shape shape, double bound = 8) {
  return {.name = std::move(name), .role = Role::output, .shape = shape, .bound = bound};
}
inline Operand updated(std::string name, Shape shape, double bound = 8) {
  return {.name = std::move(name), .role = Role::updated, .shape = shape, .bound = bound};
}
inline Operand required(Operand o) { return o.optional = false, o; }
inline Operand wider(Operand o, std::int64_t columns) { return o.wider = columns, o; }
inline Operand of_type(Operand o, DType dtype) { return o.dtype = dtype, o; }

struct Alias {
  std::string output, input;  // the output may be the very memory of the input
};

struct Case {
  std::string name;
  std::vector<Operand> operands;
  std::function<void(Context&, const Tensors&)> run;
  std::function<void(Values&)> reference;  // outputs arrive as NaN, updated operands as they were before
  std::vector<Alias> aliases = {};
};

// The case with these operands in bf16.
inline Case in_bf16(Case c, const std::vector<std::string>& names) {
  c.name += " bf16";
  for (Operand& o : c.operands) {
    if (std::find(names.begin(), names.end(), o.name) != names.end()) o.dtype = DType::bf16;
  }
  return c;
}

// ---- memory of one operand, with guard words around it

class Buffer {
 public:
  explicit Buffer(const Operand& o) {
    Shape whole = o.shape;
    if (o.wider) whole.size[1] += o.wider;
    const std::size_t bytes = static_cast<std::size_t>(whole.elements()) * size_of(o.dtype);
    storage_.assign(bytes + 4 * kAlignment, std::byte{0xA5});
    auto address = reinterpret_cast<std::uintptr_t>(storage_.data());
    tensor_ = Tensor(storage_.data() + (2 * kAlignment - address % kAlignment), whole, o.dtype);
    if (o.wider) tensor_ = tensor_.narrow(1, o.wider / 2, o.shape[1]);
  }
  const Tensor& tensor() const { return tensor_; }
  const std::vector<std::byte>& storage() const { return storage_; }

  void set(const std::vector<double>& values) {
    for (std::int64_t i = 0; i < tensor_.elements(); ++i) set(i, values[static_cast<std::size_t>(i)]);
  }
  std::vector<double> get() const {
    std::vector<double> values;
    for (std::int64_t i = 0; i < tensor_.elements(); ++i) {
      const std::byte* p = element(i);
      values.push_back(tensor_.dtype == DType::f32    ? load<float>(p)
                       : tensor_.dtype == DType::f64  ? load<double>(p)
                       : tensor_.dtype == DType::bf16 ? static_cast<double>(static_cast<float>(load_as<bf16>(p)))
                                                      : load<std::int32_t>(p));
    }
    return values;
  }
  // Everything but the elements themselves, as bytes: guards, and the columns beside a narrowed tensor.
  std::vector<std::byte> surroundings() const {
    std::vector<std::byte> rest = storage_;
    const auto shift = tensor_.data - storage_.data();
    for (std::int64_t i = 0; i < tensor_.elements(); ++i) {
      const auto at = static_cast<std::size_t>(shift + (element(i) - tensor_.data));
      std::fill_n(rest.begin() + static_cast<std::ptrdiff_t>(at), size_of(tensor_.dtype), std::byte{0});
    }
    return rest;
  }

 private:
  template <class T>
  static T load_as(const std::byte* p) {
    T value;
    std::memcpy(&value, p, sizeof value);
    return value;
  }
  template <class T>
  static double load(const std::byte* p) {
    return static_cast<double>(load_as<T>(p));
  }
  template <class T>
  static void store(std::byte* p, double value) {
    const T narrowed = static_cast<T>(value);
    std::memcpy(p, &narrowed, sizeof narrowed);
  }
  std::byte* element(std::int64_t i) const {
    std::int64_t offset = 0;
    for (int d = tensor_.shape.rank - 1; d >= 0; i /= tensor_.shape[d], --d)
      offset += i % tensor_.shape[d] * tensor_.stride[static_cast<std::size_t>(d)];
    return tensor_.data + offset * static_cast<std::int64_t>(size_of(tensor_.dtype));
  }
  void set(std::int64_t i, double value) {
    if (tensor_.dtype == DType::f32) return store<float>(element(i), value);
    if (tensor_.dtype == DType::f64) return store<double>(element(i), value);
    if (tensor_.dtype == DType::bf16) return store<bf16>(element(i), static_cast<float>(value));
    store<std::int32_t>(element(i), std::isnan(value) ? -77 : value);
  }

  std::vector<std::byte> storage_;
  Tensor tensor_;
};

// ---- one run

inline double rounded_to_bf16(double value) { return static_cast<double>(static_cast<float>(bf16(static_cast<float>(value)))); }

inline Values initial_values(const Case& c) {
  Values values;
  for (const Operand& o : c.operands) {
    auto& v = values[o.name];
    const Key key{.seed = 20, .id = hash(o.name)};
    for (std::int64_t i = 0; i < o.shape.elements(); ++i) {
      const double value = o.role == Role::output ? std::numeric_limits<double>::quiet_NaN()
                           : o.fill               ? o.fill(i)
                                                  : normal(key, static_cast<std::uint64_t>(i));
      v.push_back(o.dtype == DType::f32 ? static_cast<float>(value) : o.dtype == DType::bf16 ? rounded_to_bf16(value) : value);
    }
  }
  return values;
}

struct Variant {
  std::string without;  // this output is left undefined
  Alias alias;          // this output shares this input's memory
  int threads = 1;
};

struct Result {
  Values values;
  std::size_t scratch = 0;
};

inline Context context_over(Arena& scratch) {
  Context context;
  context.scratch = &scratch;
  return context;
}

// Plan mode over memory that faults when touched. Returns the scratch it took.
inline std::size_t plan_case(const Case& c, const std::string& without = {}) {
  Arena memory(Backing::none, kUnlimited), scratch(Backing::none, kUnlimited);
  Tensors tensors;
  for (const Operand& o : c.operands) {
    Shape whole = o.shape;
    if (o.wider) whole.size[1] += o.wider;
    const Tensor t = memory.tensor(whole, o.dtype);
    if (o.name != without) tensors.by_name[o.name] = o.wider ? t.narrow(1, o.wider / 2, o.shape[1]) : t;
  }
  Meter meter;
  Context context = context_over(scratch);
  context.meter = &meter;
  c.run(context, tensors);
  EXPECT_TRUE(meter.total.bytes > 0 || !without.empty()) << "plan mode counted no bytes";
  EXPECT_EQ(scratch.used(), 0u) << "scratch was kept in plan mode";
  return scratch.peak();
}

inline Result run_case(const Case& c, const Variant& variant = {}) {
  std::map<std::string, Buffer> buffers;
  Tensors tensors;
  const Values before = initial_values(c);
  for (const Operand& o : c.operands) {
    Buffer& buffer = buffers.emplace(o.name, o).first->second;
    buffer.set(before.at(o.name));
    if (o.name != variant.without) tensors.by_name[o.name] = buffer.tensor();
  }
  if (!variant.alias.output.empty()) tensors.by_name[variant.alias.output] = tensors[variant.alias.input];
  std::map<std::string, std::vector<std::byte>> around, whole;
  for (const auto& [name, buffer] : buffers) around[name] = buffer.surroundings(), whole[name] = buffer.storage();

  Arena scratch(Backing::host, std::size_t{256} << 20);
  std::memset(scratch.memory(), 0xFF, plan_case(c, variant.without));  // NaN: scratch starts as whatever was there before
  Context context = context_over(scratch);
  omp_set_num_threads(variant.threads);
  c.run(context, tensors);
  omp_set_num_threads(1);

  Result result{.values = {}, .scratch = scratch.peak()};
  EXPECT_EQ(scratch.used(), 0u) << "scratch was kept";
  for (const Operand& o : c.operands) {
    const Buffer& buffer = buffers.at(o.name);
    EXPECT_EQ(buffer.surroundings(), around[o.name]) << "wrote beside " << o.name;
    const bool untouched = (o.role == Role::input && o.name != variant.alias.input) || o.name == variant.without;
    EXPECT_TRUE(!untouched || buffer.storage() == whole[o.name]) << "wrote into " << o.name;
    result.values[o.name] = buffer.get();
  }
  if (!variant.alias.output.empty()) result.values[variant.alias.output] = result.values[variant.alias.input];
  return result;
}

// ---- comparisons

inline void expect_near(const Operand& o, const std::vector<double>& got, const std::vector<double>& want) {
  const double unit = o.dtype == DType::f64 ? 0x1p-53 : o.dtype == DType::i32 ? 0 : 0x1p-24;
  const double rounding = o.dtype == DType::bf16 ? 0x1p-8 : 0;  // once, of what was computed in f32
  double largest = 0;
  for (const double w : want) largest = std::isfinite(w) ? std::max(largest, std::abs(w)) : largest;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const bool same = got[i] == want[i] || (std::isnan(got[i]) && std::isnan(want[i]));
    const bool close = std::abs(got[i] - want[i]) <= rounding * std::abs(want[i]) + o.bound * unit * (std::abs(want[i]) + largest);
    if (same || (close && std::isfinite(want[i]))) continue;
    ADD_FAILURE() << o.name << "[" << i << "] is " << got[i] << ", not " << want[i] << " (" << std::abs(got[i] - want[i]) / unit
                  << " units)";
    return;
  }
}

inline bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
}

inline void check_case(const Case& c) {
  SCOPED_TRACE(c.name);
  const Result plain = run_case(c);
  Values want = initial_values(c);
  c.reference(want);
  for (const Operand& o : c.operands) expect_near(o, plain.values.at(o.name), want.at(o.name));
  EXPECT_EQ(plan_case(c), plain.scratch) << "planned scratch differs from the real one";

  const auto expect_same = [&](const Result& other, const std::string& how, const std::string& except = {}) {
    for (const Operand& o : c.operands) {
      if (o.role == Role::input || o.name == except) continue;
      EXPECT_TRUE(same_bits(other.values.at(o.name), plain.values.at(o.name))) << o.name << " has other bits " << how;
    }
  };
  expect_same(run_case(c, {.threads = 2}), "on 2 threads");
  for (const Operand& o : c.operands) {
    if (o.role == Role::input || !o.optional) continue;
    const Result partial = run_case(c, {.without = o.name});
    expect_same(partial, "without " + o.name, o.name);
    EXPECT_EQ(plan_case(c, o.name), partial.scratch) << "planned scratch differs without " << o.name;
  }
  for (const Alias& alias : c.aliases) expect_same(run_case(c, {.alias = alias}), alias.output + " being " + alias.input);
}

// Finite differences. Operands are matched by name: `dy` or `d_y` of the backward is the cotangent of the forward's output y, `dx`
// or `d_x` the gradient of its input x; an output named `loss` has cotangent 1; what only the backward knows (a residual's
// gradient) is zero. Everything in double, so the bound is that of the difference quotient, about step^2.
inline void check_gradient(const Case& forward, const Case& backward) {
  SCOPED_TRACE(backward.name + " against " + forward.name);
  Values point = initial_values(forward);
  forward.reference(point);
  Values back = initial_values(backward), cotangents;
  const auto gradient_of = [](const std::string& name, const Values& values) {
    for (const std::string d : {"d", "d_"}) {
      if (values.count(d + name)) return d + name;
    }
    return std::string{};
  };
  std::map<std::string, std::string> cotangent_names;
  for (const Operand& o : forward.operands) {
    if (o.role == Role::input) continue;
    if (o.name == "loss") cotangents[o.name].assign(point[o.name].size(), 1.0);
    const std::string d = gradient_of(o.name, back);
    if (!d.empty()) cotangents[o.name] = back[d], cotangent_names[d] = o.name;
  }
  for (const Operand& o : backward.operands) {
    if (point.count(o.name))
      back[o.name] = point[o.name];
    else if (!cotangent_names.count(o.name) && o.dtype != DType::i32)
      back[o.name].assign(back[o.name].size(), 0.0);
  }
  backward.reference(back);

  const auto loss = [&](Values v) {
    forward.reference(v);
    double sum = 0;
    for (const auto& [name, weights] : cotangents) {
      for (std::size_t i = 0; i < weights.size(); ++i) sum += weights[i] * v[name][i];
    }
    return sum;
  };
  int compared = 0;
  for (const Operand& o : forward.operands) {
    const std::string d = gradient_of(o.name, back);
    if (d.empty() || o.role == Role::output || o.dtype == DType::i32 || cotangent_names.count(d)) continue;
    ++compared;
    for (std::size_t i = 0; i < point[o.name].size(); ++i) {
      const double step = 1e-5;
      Values up = point, down = point;
      up[o.name][i] += step, down[o.name][i] -= step;
      const double slope = (loss(up) - loss(down)) / (2 * step);
      EXPECT_NEAR(back[d][i], slope, 1e-6 * (1 + std::abs(slope))) << d << "[" << i << "]";
    }
  }
  EXPECT_GT(compared, 0) << "no gradient of the backward bears the name of an input of the forward";
}

}  // namespace offramp::testing
