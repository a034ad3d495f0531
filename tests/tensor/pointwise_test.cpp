// Rotation, SwiGLU, GELU, embedding, plain memory, and the exponential that the vectorised loops use.
#include "registry.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/vector_math.h"

namespace offramp::testing {
namespace {

using Index = std::size_t;

struct Blocks {
  std::int64_t n, blocks, width;
};

Case swiglu_case(Blocks s) {
  return {.name = fmt::format("swiglu n={} blocks={} width={}", s.n, s.blocks, s.width),
          .operands = {required(output("y", {s.n, s.blocks * s.width})), input("gate_up", {s.n, s.blocks, 2, s.width})},
          .run = [](Context& c, const Tensors& t) { swiglu(c, t["y"], t["gate_up"]); },
          .reference =
              [=](Values& v) {
                const Index width = static_cast<Index>(s.width);
                for (Index i = 0; i < v["y"].size(); ++i) {
                  const Index gate = i / width * 2 * width + i % width;
                  const double g = v["gate_up"][gate];
                  v["y"][i] = g / (1 + std::exp(-g)) * v["gate_up"][gate + width];
                }
              }};
}

Case swiglu_backward_case(Blocks s) {
  return {.name = fmt::format("swiglu_backward n={} blocks={} width={}", s.n, s.blocks, s.width),
          .operands = {output("d_gate_up", {s.n, s.blocks, 2, s.width}), input("dy", {s.n, s.blocks * s.width}),
                       input("gate_up", {s.n, s.blocks, 2, s.width})},
          .run = [](Context& c, const Tensors& t) { swiglu_backward(c, t["d_gate_up"], t["dy"], t["gate_up"]); },
          .reference =
              [=](Values& v) {
                const Index width = static_cast<Index>(s.width);
                for (Index i = 0; i < v["dy"].size(); ++i) {
                  const Index gate = i / width * 2 * width + i % width, up = gate + width;
                  const double g = v["gate_up"][gate], sigmoid = 1 / (1 + std::exp(-g)), dy = v["dy"][i];
                  v["d_gate_up"][gate] = dy * v["gate_up"][up] * (sigmoid + g * sigmoid * (1 - sigmoid));
                  v["d_gate_up"][up] = dy * g * sigmoid;
                }
              },
          .aliases = {{"d_gate_up", "gate_up"}}};
}

TEST(Swiglu, ForwardAndBackward) {
  for (const Blocks& s : {Blocks{1, 1, 1}, {3, 2, 5}, {5, 1, 67}, {64, 4, 172}}) {
    check_case(swiglu_case(s));
    check_case(in_bf16(swiglu_case(s), {"y", "gate_up"}));
    check_case(swiglu_backward_case(s));
    check_case(in_bf16(swiglu_backward_case(s), {"d_gate_up", "dy", "gate_up"}));
  }
}

TEST(Swiglu, GradientAgreesWithFiniteDifferences) {
  for (const Blocks& s : {Blocks{1, 1, 1}, {3, 2, 5}}) check_gradient(swiglu_case(s), swiglu_backward_case(s));
}

TEST(Swiglu, SaturatesWithoutNaN) {
  Arena arena(Backing::host, 1 << 16);
  Context context = context_over(arena);
  const Tensor in = arena.tensor({1, 1, 2, 2}, DType::f32), y = arena.tensor({1, 2}, DType::f32),
               d = arena.tensor({1, 1, 2, 2}, DType::f32);
  const float gates[] = {-1e4f, 1e4f, 1, 1};
  std::copy(std::begin(gates), std::end(gates), in.as<float>());
  swiglu(context, y, in);
  EXPECT_EQ(y.as<float>()[0], 0.0f);
  EXPECT_EQ(y.as<float>()[1], 1e4f);
  std::fill_n(y.as<float>(), 2, 1.0f);
  swiglu_backward(context, d, y, in);
  EXPECT_EQ(d.as<float>()[0], 0.0f);
  EXPECT_EQ(d.as<float>()[1], 1.0f);
}

// ---- GELU, by the tanh that defines it

const double kRoot = std::sqrt(2 / std::acos(-1.0));

Case gelu_case(Shape shape) {
  return {.name = fmt::format("gelu {}", to_text(shape)),
          .operands = {required(output("y", shape)), input("x", shape)},
          .run = [](Context& c, const Tensors& t) { gelu(c, t["y"], t["x"]); },
          .reference =
              [](Values& v) {
                for (Index i = 0; i < v["x"].size(); ++i) {
                  const double x = v["x"][i];
                  v["y"][i] = x / 2 * (1 + std::tanh(kRoot * (x + 0.044715 * x * x * x)));
                }
              },
          .aliases = {{"y", "x"}}};
}

Case gelu_backward_case(Shape shape) {
  return {.name = fmt::format("gelu_backward {}", to_text(shape)),
          .operands = {output("dx", shape), input("dy", shape), input("x", shape)},
          .run = [](Context& c, const Tensors& t) { gelu_backward(c, t["dx"], t["dy"], t["x"]); },
          .reference =
              [](Values& v) {
                for (Index i = 0; i < v["x"].size(); ++i) {
                  const double x = v["x"][i], tanh = std::tanh(kRoot * (x + 0.044715 * x * x * x));
                  v["dx"][i] = v["dy"][i] * ((1 + tanh) / 2 + x / 2 * (1 - tanh * tanh) * kRoot * (1 + 3 * 0.044715 * x * x));
                }
              },
          .aliases = {{"dx", "x"}, {"dx", "dy"}}};
}

TEST(Gelu, ForwardAndBackward) {
  for (const Shape& shape : {Shape{1, 1}, Shape{3, 5}, Shape{70, 601}}) {
    check_case(gelu_case(shape));
    check_case(in_bf16(gelu_case(shape), {"y", "x"}));
    check_case(gelu_backward_case(shape));
    check_case(in_bf16(gelu_backward_case(shape), {"dx", "dy", "x"}));
  }
  check_gradient(gelu_case({3, 5}), gelu_backward_case({3, 5}));
}

TEST(Gelu, SaturatesWithoutNaN) {
  const Fill ends = [](std::int64_t i) { return std::array{-1e4, 1e4, 0.0}[static_cast<Index>(i)]; };
  Case forward = gelu_case({1, 3}), backward = gelu_backward_case({1, 3});
  forward.operands[1].fill = backward.operands[2].fill = ends;
  backward.operands[1].fill = [](std::int64_t) { return 1.0; };
  EXPECT_EQ(run_case(forward).values.at("y"), (std::vector<double>{0, 1e4, 0}));
  EXPECT_EQ(run_case(backward).values.at("dx"), (std::vector<double>{0, 1, 0.5}));
}

// ---- rotation

struct Rotation {
  std::int64_t sequences, length, groups, queries, d;
  bool inverse, given_positions;
};

constexpr std::int64_t kPositions = 64;

double angle(std::int64_t position, std::int64_t i, std::int64_t d) {
  return static_cast<double>(position) * std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(d));
}

Case rope_table_case(std::int64_t positions, std::int64_t d) {
  return {.name = fmt::format("rope_table positions={} d={}", positions, d),
          .operands = {required(output("table", {positions, d}))},
          .run = [](Context& c, const Tensors& t) { rope_table(c, t["table"], 10000.0); },
          .reference =
              [=](Values& v) {
                for (std::int64_t p = 0; p < positions; ++p) {
                  for (std::int64_t i = 0; i < d / 2; ++i) {
                    v["table"][static_cast<Index>(p * d + i)] = std::cos(angle(p, i, d));
                    v["table"][static_cast<Index>(p * d + d / 2 + i)] = std::sin(angle(p, i, d));
                  }
                }
              }};
}

Case rope_case(Rotation r) {
  const std::int64_t n = r.sequences * r.length, slots = 2 + r.queries;
  const auto position = [=](std::int64_t row) { return r.given_positions ? row * 7 % kPositions : row % r.length; };
  const Fill table = [=](std::int64_t i) {
    const std::int64_t column = i % r.d, pair = column % (r.d / 2);
    return column < r.d / 2 ? std::cos(angle(i / r.d, pair, r.d)) : std::sin(angle(i / r.d, pair, r.d));
  };
  Case c{
      .name = fmt::format("rope n={}x{} groups={} queries={} d={} inverse={}", r.sequences, r.length, r.groups, r.queries, r.d, r.inverse),
      .operands = {required(updated("qkv", {n, r.groups, slots, r.d})), input("table", {kPositions, r.d}, table)},
      .run =
          [=](Context& context, const Tensors& t) {
            rope(context, t["qkv"], t["table"], {.length = r.length, .positions = t["positions"], .first_key = {}}, r.inverse);
          },
      .reference =
          [=](Values& v) {
            for (std::int64_t head = 0; head < n * r.groups * slots; ++head) {
              if (head % slots == 1) continue;
              for (std::int64_t i = 0; i < r.d / 2; ++i) {
                const double turn = (r.inverse ? -1 : 1) * angle(position(head / (r.groups * slots)), i, r.d);
                double &a = v["qkv"][static_cast<Index>(head * r.d + i)], &b = v["qkv"][static_cast<Index>(head * r.d + r.d / 2 + i)];
                const double old_a = a, old_b = b;
                a = old_a * std::cos(turn) - old_b * std::sin(turn);
                b = old_b * std::cos(turn) + old_a * std::sin(turn);
              }
            }
          }};
  if (r.given_positions) c.operands.push_back(ids("positions", {n}, [=](std::int64_t i) { return static_cast<double>(position(i)); }));
  return c;
}

TEST(Rope, Table) {
  for (const auto& [positions, d] : {std::pair{1, 2}, {7, 6}, {512, 128}}) check_case(rope_table_case(positions, d));
}

TEST(Rope, RotatesKeysAndQueriesOnly) {
  for (const bool inverse : {false, true}) {
    for (const bool given : {false, true}) {
      check_case(rope_case({1, 1, 1, 1, 2, inverse, given}));
      check_case(rope_case({2, 5, 2, 3, 6, inverse, given}));
      check_case(rope_case({3, 32, 2, 2, 64, inverse, given}));
      check_case(in_bf16(rope_case({3, 32, 2, 2, 64, inverse, given}), {"qkv"}));
    }
  }
}

TEST(Rope, RefusesPositionsBeyondTheTable) {
  Case c = rope_case({1, 4, 1, 1, 2, false, true});
  c.operands.back().fill = [](std::int64_t i) { return i == 2 ? 64.0 : 0.0; };
  EXPECT_THROW(run_case(c), Error);
}

// ---- embedding

struct Lookup {
  std::int64_t n, h, rows, first;
};

// Some ids lie below, some above the rows [first, first + rows); ids repeat.
Fill some_ids(Lookup s) {
  return [=](std::int64_t i) { return static_cast<double>((i * 5 + 3) % (s.rows + 4) + std::max<std::int64_t>(s.first - 2, 0)); };
}

Case embedding_case(Lookup s) {
  return {.name = fmt::format("embedding n={} h={} rows={} first={}", s.n, s.h, s.rows, s.first),
          .operands = {required(output("y", {s.n, s.h})), input("w", {s.rows, s.h}), ids("ids", {s.n}, some_ids(s))},
          .run = [=](Context& c, const Tensors& t) { embedding(c, t["y"], t["w"], t["ids"], s.first); },
          .reference =
              [=](Values& v) {
                for (std::int64_t i = 0; i < s.n * s.h; ++i) {
                  const std::int64_t row = static_cast<std::int64_t>(v["ids"][static_cast<Index>(i / s.h)]) - s.first;
                  const bool here = row >= 0 && row < s.rows;
                  v["y"][static_cast<Index>(i)] = here ? v["w"][static_cast<Index>(row * s.h + i % s.h)] : 0.0;
                }
              }};
}

Case embedding_backward_case(Lookup s) {
  return {.name = fmt::format("embedding_backward n={} h={} rows={} first={}", s.n, s.h, s.rows, s.first),
          .operands = {updated("dw", {s.rows, s.h}, 64), input("dy", {s.n, s.h}), ids("ids", {s.n}, some_ids(s))},
          .run = [=](Context& c, const Tensors& t) { embedding_backward(c, t["dw"], t["dy"], t["ids"], s.first); },
          .reference =
              [=](Values& v) {
                for (std::int64_t i = 0; i < s.n * s.h; ++i) {
                  const std::int64_t row = static_cast<std::int64_t>(v["ids"][static_cast<Index>(i / s.h)]) - s.first;
                  if (row >= 0 && row < s.rows) v["dw"][static_cast<Index>(row * s.h + i % s.h)] += v["dy"][static_cast<Index>(i)];
                }
              }};
}

TEST(Embedding, ForwardAndBackward) {
  for (const Lookup& s : {Lookup{1, 1, 1, 0}, {7, 5, 3, 4}, {300, 257, 40, 9}}) {
    check_case(embedding_case(s));
    check_case(in_bf16(embedding_case(s), {"y", "w"}));
    check_case(embedding_backward_case(s));
    check_case(in_bf16(embedding_backward_case(s), {"dy"}));
  }
  check_gradient(embedding_case({7, 5, 3, 4}), embedding_backward_case({7, 5, 3, 4}));
}

// ---- plain memory

Case add_case(Shape shape, DType dtype, std::int64_t y_wider, std::int64_t x_wider) {
  return {.name = fmt::format("add {} {} wider by {} and {}", to_text(shape), name_of(dtype), y_wider, x_wider),
          .operands = {required(of_type(wider(updated("y", shape), y_wider), dtype)), of_type(wider(input("x", shape), x_wider), dtype)},
          .run = [](Context& c, const Tensors& t) { add(c, t["y"], t["x"]); },
          .reference =
              [](Values& v) {
                for (Index i = 0; i < v["y"].size(); ++i) v["y"][i] += v["x"][i];
              }};
}

Case copy_case(Shape shape, DType dtype, std::int64_t y_wider, std::int64_t x_wider) {
  const Fill whole = [](std::int64_t i) { return static_cast<double>(i * 3 - 5); };  // whole numbers: integers are copied too
  Operand x = of_type(wider(input("x", shape, whole), x_wider), dtype);
  return {.name = fmt::format("copy {} {} wider by {} and {}", to_text(shape), name_of(dtype), y_wider, x_wider),
          .operands = {required(of_type(wider(output("y", shape), y_wider), dtype)), x},
          .run = [](Context& c, const Tensors& t) { copy(c, t["y"], t["x"]); },
          .reference = [](Values& v) { v["y"] = v["x"]; }};
}

Case fill_zero_case(Shape shape, DType dtype, std::int64_t y_wider) {
  return {.name = fmt::format("fill_zero {} {} wider by {}", to_text(shape), name_of(dtype), y_wider),
          .operands = {required(of_type(wider(output("y", shape), y_wider), dtype))},
          .run = [](Context& c, const Tensors& t) { fill_zero(c, t["y"]); },
          .reference = [](Values& v) { std::fill(v["y"].begin(), v["y"].end(), 0.0); }};
}

TEST(Memory, AddCopyAndZero) {
  for (const Shape& shape : {Shape{1, 1}, Shape{3, 5}, Shape{2, 3, 2, 7}, Shape{200, 257}}) {
    for (const std::int64_t y_wider : {0, 3}) {
      for (const DType dtype : {DType::f32, DType::f64, DType::i32, DType::bf16}) {
        check_case(fill_zero_case(shape, dtype, y_wider));
        for (const std::int64_t x_wider : {0, 4}) {
          check_case(copy_case(shape, dtype, y_wider, x_wider));
          if (dtype != DType::i32) check_case(add_case(shape, dtype, y_wider, x_wider));
        }
      }
    }
  }
  for (const DType dtype : {DType::f32, DType::bf16}) check_case(add_case({100'000}, dtype, 0, 0));
}

TEST(Memory, CopiesConvert) {
  for (const std::int64_t y_wider : {0, 3}) {
    for (const std::int64_t x_wider : {0, 4}) {
      for (const char* narrow : {"y", "x"}) check_case(in_bf16(copy_case({200, 257}, DType::f32, y_wider, x_wider), {narrow}));
    }
  }
}

// f32 and bf16 are two widths of one thing; nothing else is.
TEST(Memory, RefusesOtherConversions) {
  EXPECT_THROW(run_case(in_bf16(copy_case({3, 5}, DType::f64, 0, 0), {"x"})), Error);
  EXPECT_THROW(run_case(in_bf16(copy_case({3, 5}, DType::i32, 0, 0), {"y"})), Error);
  EXPECT_THROW(run_case(in_bf16(add_case({3, 5}, DType::f32, 0, 0), {"x"})), Error);
}

TEST(Memory, CopiesAColumn) {
  Arena arena(Backing::host, 1 << 16);
  Context context = context_over(arena);
  const Tensor x = arena.tensor({3, 4}, DType::i32), y = arena.tensor({3}, DType::i32);
  for (int i = 0; i < 12; ++i) x.as<std::int32_t>()[i] = i;
  copy(context, y, x.narrow(1, 2, 1).reshape({3}));
  EXPECT_EQ(y.as<std::int32_t>()[0], 2);
  EXPECT_EQ(y.as<std::int32_t>()[1], 6);
  EXPECT_EQ(y.as<std::int32_t>()[2], 10);
}

TEST(Memory, RefusesShapesThatDiffer) {
  Arena arena(Backing::host, 1 << 16);
  Context context = context_over(arena);
  const Tensor x = arena.tensor({3, 4}, DType::f32), y = arena.tensor({4, 3}, DType::f32);
  EXPECT_THROW(copy(context, y, x), Error);
  EXPECT_THROW(add(context, y, x), Error);
  EXPECT_THROW(add(context, y, {}), Error);
  EXPECT_THROW(fill_zero(context, {}), Error);
}

// ---- the exponential

// Both exponentials as the kernels have them: compiled for the processor, with or without fused multiply-adds.
struct Exponential {
  void (*of)(float*, const float*, std::int64_t);
  double (*exact)(double);
  float zero_below, normal_from;  // exactly 0 below
  float finite_below, infinite_from;
};
const Exponential kLoops{cpu::exp_of_loops, [](double x) { return std::exp(x); }, -104.0f, -87.0f, 88.72f, 89.0f};
const Exponential kAttention{cpu::exp2_of_attention, [](double x) { return std::exp2(x); }, -126.0f, -126.0f, 127.99f, 128.0f};

float exp_at(const Exponential& e, float x) {
  float y = 0;
  e.of(&y, &x, 1);
  return y;
}

TEST(Exponential, IsWithinAUnitAndAHalf) {
  for (const Exponential& e : {kLoops, kAttention}) {
    std::vector<float> x;
    for (float at = e.normal_from; at < e.finite_below; at += 0.000731f) x.push_back(at);
    for (const float at : {0x1p-30f, -0x1p-30f, 0.34657359f, -0.34657359f, 0.5f, -0.5f, 1.0f}) x.push_back(at);  // edges of the reductions
    std::vector<float> y(x.size());
    e.of(y.data(), x.data(), static_cast<std::int64_t>(x.size()));
    double worst = 0;  // in units of 2^-24 of the value
    for (std::size_t i = 0; i < x.size(); ++i) worst = std::max(worst, std::abs(y[i] / e.exact(static_cast<double>(x[i])) - 1) * 0x1p24);
    EXPECT_LT(worst, 1.5);
  }
}

TEST(Exponential, AtTheEdges) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const Exponential& e : {kLoops, kAttention}) {
    EXPECT_EQ(exp_at(e, 0), 1.0f);
    for (const float x : {-kInfinity, -1e30f, e.zero_below - 0.01f}) EXPECT_EQ(exp_at(e, x), 0.0f) << x;
    for (const float x : {e.infinite_from, 1e30f, kInfinity}) EXPECT_EQ(exp_at(e, x), kInfinity) << x;
    EXPECT_TRUE(std::isfinite(exp_at(e, e.finite_below)));
    EXPECT_GT(exp_at(e, e.normal_from), 0.0f);
    EXPECT_TRUE(std::isnan(exp_at(e, std::numeric_limits<float>::quiet_NaN())));
  }
}

TEST(VectorMath, FoldTakesEveryTermOnceAtEveryLength) {
  for (std::int64_t n = 0; n < 130; ++n) {
    const auto sum = cpu::sum_lanes(n, [](std::int64_t i) { return static_cast<float>(i + 1); });
    EXPECT_EQ(sum, static_cast<float>(n * (n + 1) / 2));
  }
}

}  // namespace
}  // namespace offramp::testing
