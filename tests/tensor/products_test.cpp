// Matrix products.
#include "products.h"

#include "tensor/cpu/products.h"

namespace offramp::testing {
namespace {

struct Sizes {
  std::int64_t n, h, o;
  std::int64_t pitch = 0;  // columns that every operand's memory has beyond its own
  bool residual = false, bias = false;
  DType type = DType::f32;
  bool logits = false;  // f32 whatever the operands are
};

std::string name_of_case(const char* what, const Sizes& s) {
  return fmt::format("{} {} n={} h={} o={} pitch+{}{}{}{}", what, name_of(s.type), s.n, s.h, s.o, s.pitch, s.residual ? " residual" : "",
                     s.bias ? " bias" : "", s.logits ? " logits" : "");
}

Case linear_case(const Sizes& s) {
  std::vector<Operand> operands = {
      required(of_type(wider(output("y", {s.n, s.o}, sum_bound(s.h)), s.pitch), s.logits ? DType::f32 : s.type)),
      of_type(wider(input("x", {s.n, s.h}), s.pitch), s.type), of_type(wider(input("w", {s.o, s.h}), s.pitch), s.type)};
  if (s.residual) operands.push_back(of_type(wider(input("residual", {s.n, s.o}), s.pitch), s.type));
  if (s.bias) operands.push_back(of_type(input("bias", {s.o}), s.type));
  return {.name = name_of_case("linear", s),
          .operands = operands,
          .run =
              [](Context& c, const Tensors& t) {
                linear(c, t["y"], t["x"], t["w"], {t["bias"], t["residual"]});
              },
          .reference =
              [=](Values& v) {
                for (std::int64_t i = 0; i < s.n; ++i) {
                  for (std::int64_t j = 0; j < s.o; ++j) {
                    double sum = (s.residual ? v["residual"][at(i * s.o + j)] : 0) + (s.bias ? v["bias"][at(j)] : 0);
                    for (std::int64_t k = 0; k < s.h; ++k) sum += v["x"][at(i * s.h + k)] * v["w"][at(j * s.h + k)];
                    v["y"][at(i * s.o + j)] = sum;
                  }
                }
              },
          .aliases = s.residual ? std::vector<Alias>{{"y", "residual"}} : std::vector<Alias>{}};
}

Case backward_input_case(const Sizes& s) {
  return {.name = name_of_case("linear_backward_input", s),
          .operands = {of_type(wider(output("dx", {s.n, s.h}, sum_bound(s.o)), s.pitch), s.type),
                       of_type(wider(input("dy", {s.n, s.o}), s.pitch), s.type), of_type(wider(input("w", {s.o, s.h}), s.pitch), s.type)},
          .run = [](Context& c, const Tensors& t) { linear_backward_input(c, t["dx"], t["dy"], t["w"]); },
          .reference =
              [=](Values& v) {
                for (std::int64_t i = 0; i < s.n; ++i) {
                  for (std::int64_t k = 0; k < s.h; ++k) {
                    double sum = 0;
                    for (std::int64_t j = 0; j < s.o; ++j) sum += v["dy"][at(i * s.o + j)] * v["w"][at(j * s.h + k)];
                    v["dx"][at(i * s.h + k)] = sum;
                  }
                }
              }};
}

Case backward_weight_case(const Sizes& s) {
  return {.name = name_of_case("linear_backward_weight", s),
          .operands = {wider(updated("dw", {s.o, s.h}, sum_bound(s.n)), s.pitch), of_type(wider(input("dy", {s.n, s.o}), s.pitch), s.type),
                       of_type(wider(input("x", {s.n, s.h}), s.pitch), s.type)},
          .run = [](Context& c, const Tensors& t) { linear_backward_weight(c, t["dw"], t["dy"], t["x"]); },
          .reference =
              [=](Values& v) {
                for (std::int64_t j = 0; j < s.o; ++j) {
                  for (std::int64_t k = 0; k < s.h; ++k) {
                    for (std::int64_t i = 0; i < s.n; ++i) v["dw"][at(j * s.h + k)] += v["dy"][at(i * s.o + j)] * v["x"][at(i * s.h + k)];
                  }
                }
              }};
}

const std::vector<Sizes> kShapes = {{1, 1, 1}, {3, 5, 7}, {17, 65, 33}, {1, 64, 96}, {128, 96, 160}, {512, 64, 192}, {64, 512, 48}};

TEST(Products, Linear) {
  for (const Sizes& s : kShapes) {
    for (const bool residual : {false, true}) {
      for (const bool bias : {false, true}) {
        const Sizes with = {s.n, s.h, s.o, 0, residual, bias};
        for (const Sizes& each : {with, in_bf16(with)}) check_case(linear_case(each));
      }
    }
  }
}

TEST(Products, LogitsOfBf16AreF32) {
  for (Sizes s : kShapes) {
    s.type = DType::bf16, s.logits = true;
    check_case(linear_case(s));
  }
}

// What processors without bf16 instructions do, on whatever processor this is.
void run_widened(Context& c, const cpu::Product& p, const Tensors& t, const char* y, const char* a, const char* b) {
  Scratch scratch(c);
  const Tensor workspace = scratch.tensor({cpu::widened_scratch(p)}, DType::f32);
  if (c.planning()) return c.meter->count("widened", {.bytes = 1});
  cpu::widened(p, {.c = t[y].data, .a = t[a].data, .b = t[b].data, .bias = t["bias"].data, .added = t["residual"].data},
               workspace.as<float>());
}

TEST(Products, WidenedOperandsGiveTheSame) {
  for (Sizes s : {Sizes{3, 5, 7, 11, true, true}, {33, 64, 48, 16}, {128, 96, 160, 0, true}, {17, 65, 33, 2, false, true}}) {
    s.type = DType::bf16;
    const auto rows = [&](std::int64_t columns, bool transposed = false) { return cpu::Layout{columns + s.pitch, transposed, s.type}; };
    Case forward = linear_case(s), input = backward_input_case(s), weight = backward_weight_case(s);
    forward.run = [=](Context& c, const Tensors& t) {
      const bool same = s.residual && t["y"].data == t["residual"].data;
      const auto add = same ? cpu::Add::itself : s.residual ? cpu::Add::other : cpu::Add::nothing;
      run_widened(c, {s.n, s.o, s.h, rows(s.h), rows(s.h, true), rows(s.o), same ? cpu::Layout{} : rows(s.o), add, s.bias}, t, "y", "x",
                  "w");
    };
    input.run = [=](Context& c, const Tensors& t) { run_widened(c, {s.n, s.h, s.o, rows(s.o), rows(s.h), rows(s.h)}, t, "dx", "dy", "w"); };
    weight.run = [=](Context& c, const Tensors& t) {
      const cpu::Layout dw = {s.h + s.pitch};
      run_widened(c, {s.o, s.h, s.n, rows(s.o, true), rows(s.h), dw, {}, cpu::Add::itself}, t, "dw", "dy", "x");
    };
    for (Case c : {forward, input, weight}) {
      for (Operand& o : c.operands) o.optional = false;  // that a gradient may be undefined is decided above the kernel
      check_case(c);
    }
  }
}

// The library cuts sums this long into parts, which must not meet in bf16.
TEST(Products, LongSumsRoundOnce) {
  check_case(linear_case({.n = 9, .h = 5000, .o = 40, .residual = true, .bias = true, .type = DType::bf16}));
  check_case(backward_input_case({.n = 9, .h = 40, .o = 5000, .type = DType::bf16}));
}

TEST(Products, BackwardInput) {
  for (const Sizes& s : kShapes) {
    for (const Sizes& each : {s, in_bf16(s)}) check_case(backward_input_case(each));
  }
}

TEST(Products, BackwardWeight) {
  for (const Sizes& s : kShapes) {
    for (const Sizes& each : {s, in_bf16(s)}) check_case(backward_weight_case(each));
  }
}

TEST(Products, RowsMayBeStrided) {
  for (const Sizes& s : {Sizes{3, 5, 7, 11, true, true}, {33, 64, 48, 16, true}, {128, 96, 160, 3, true}}) {
    for (const Sizes& each : {s, in_bf16(s)}) {
      check_case(linear_case(each));
      check_case(backward_input_case(each));
      check_case(backward_weight_case(each));
    }
  }
}

// Bytes of the products of a weight [48, 64], and what they give: y, dx, dw.
struct OfWeight {
  std::vector<std::byte> results;
  std::size_t scratch;
};
OfWeight of_weight(std::int64_t n, std::int64_t pitch, DType type) {
  Arena memory(Backing::host, std::size_t{4} << 20), scratch(Backing::host, std::size_t{4} << 20);
  Context context = context_over(scratch);
  const auto random = [&](Shape shape, const char* name) {
    const Tensor exact = memory.tensor(shape, DType::f32), t = memory.tensor(shape, type);
    for (std::int64_t i = 0; i < exact.elements(); ++i) exact.as<float>()[i] = normal({.id = hash(name)}, at(i));
    copy(context, t, exact);
    return t;
  };
  const Tensor x = random({n, 64}, "x"), dy = random({n, 48}, "dy"), w = memory.tensor({48, pitch}, type).narrow(1, 0, 64);
  copy(context, w, random({48, 64}, "w"));
  const Tensor y = memory.tensor({n, 48}, type), dx = memory.tensor({n, 64}, type), dw = memory.tensor({48, 64}, DType::f32);
  linear(context, y, x, w);
  linear_backward_input(context, dx, dy, w);
  OfWeight of{.results = {}, .scratch = scratch.peak()};
  linear_backward_weight(context, dw, dy, x);
  for (const Tensor& t : {y, dx, dw}) of.results.insert(of.results.end(), t.data, t.data + t.bytes());
  return of;
}

// Where a copy of the slice pays it is made, in scratch, and the bits are those of a narrower model.
TEST(Products, OfASliceAreThoseOfADenseWeight) {
  for (const DType type : {DType::f32, DType::bf16}) {
    const OfWeight dense = of_weight(64, 64, type), slice = of_weight(64, 96, type);
    EXPECT_EQ(slice.results, dense.results);
    EXPECT_GE(slice.scratch, dense.scratch + 48 * 64 * size_of(type));
  }
}

TEST(Products, CopySlicesForManyRowsOnly) {
  const cpu::Product p = {.rows = 64, .columns = 64, .depth = 48, .a = {48}, .b = {96}, .c = {64}, .weight = true};
  EXPECT_TRUE(cpu::packs(p));
  const auto packs = [&](auto change) {
    cpu::Product other = p;
    change(other);
    return cpu::packs(other);
  };
  EXPECT_FALSE(packs([](cpu::Product& q) { q.weight = false; }));
  EXPECT_FALSE(packs([](cpu::Product& q) { q.b.stride = 64; }));
  EXPECT_FALSE(packs([](cpu::Product& q) { q.rows = 63; }));
  EXPECT_FALSE(packs([](cpu::Product& q) { q.columns = 1 << 16, q.b.stride = q.columns + 16; }));
  EXPECT_TRUE(packs([](cpu::Product& q) { q.b = {.stride = 64, .transposed = true}; }));  // 48 of 64 inputs
  EXPECT_FALSE(packs([](cpu::Product& q) { q.b = {.stride = 48, .transposed = true}; }));
}

// Activations and gradients are never copied, however they lie.
TEST(Products, CopyNothingButWeights) {
  Arena memory(Backing::none, kUnlimited);
  const auto scratch_of = [&](std::int64_t pitch) {
    Arena scratch(Backing::none, kUnlimited);
    Meter meter;
    Context context = context_over(scratch);
    context.meter = &meter;
    const auto rows = [&](std::int64_t n, std::int64_t columns, DType type) {
      return memory.tensor({n, columns + pitch}, type).narrow(1, 0, columns);
    };
    const Tensor x = rows(256, 64, DType::f32), y = rows(256, 48, DType::f32), w = memory.tensor({48, 64}, DType::f32);
    linear(context, y, x, w);
    linear_backward_input(context, x, y, w);
    linear_backward_weight(context, rows(48, 64, DType::f32), y, x);
    return scratch.peak();
  };
  EXPECT_LE(scratch_of(32), scratch_of(0) + 48 * 64);  // the library's own may differ by a little; a copy of y alone is 49,152 bytes
}

TEST(Products, GradientAgreesWithFiniteDifferences) {
  const Sizes s = {3, 5, 7};
  check_gradient(linear_case(s), backward_input_case(s));
  check_gradient(linear_case(s), backward_weight_case(s));
}

TEST(Products, PlanCountsMultiplyAddsAsTwo) {
  const Sizes s = {512, 256, 768};
  for (const Case& c : {linear_case(s), backward_input_case(s), backward_weight_case(s)})
    EXPECT_EQ(plan(c).meter.total.flops, 2.0 * 512 * 256 * 768) << c.name;
}

// ---- mistakes

TEST(Products, NamesTheOperandThatDoesNotFit) {
  Arena memory(Backing::host, 1 << 20), scratch(Backing::host, 1 << 20);
  Context context = context_over(scratch);
  const auto matrix = [&](std::int64_t rows, std::int64_t columns) { return memory.tensor({rows, columns}, DType::f32); };
  EXPECT_NE(
      message_of([&] { linear(context, matrix(4, 3), matrix(4, 5), matrix(3, 6)); }).find("[linear] w is f32 [3, 6], wanted f32 [3, 5]"),
      std::string::npos);
  const Tensor half = memory.tensor({4, 5}, DType::bf16);
  EXPECT_NE(message_of([&] { linear(context, matrix(4, 3), half, matrix(3, 5)); }).find("w is f32 [3, 5], wanted bf16 [3, 5]"),
            std::string::npos);
  EXPECT_NE(message_of([&] { linear_backward_weight(context, matrix(3, 5), matrix(4, 3), matrix(2, 5)); }).find("x is f32 [2, 5]"),
            std::string::npos);
}

TEST(Products, RanksAsThreadsComputeTheSameBits) {
  expect_same_on_threads(
      {linear_case({64, 48, 80, 0, true}), linear_case(in_bf16(Sizes{64, 48, 80, 0, true, true})), backward_weight_case({64, 48, 80})});
}

}  // namespace
}  // namespace offramp::testing
