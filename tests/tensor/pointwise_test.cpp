// SwiGLU, GELU, rotation, embedding.
#include <numbers>

#include "registry.h"

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
          .run = [](Context& c, const Tensors& t) { rope_table(c, t["table"], {.theta = 10000.0}); },
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

// The factors that frequencies are divided by, as transformers 5's LlamaConfig makes them for these settings, here of 16 pairs.
TEST(Rope, StretchedFrequencies) {
  const RopeFrequencies f{.theta = 500.0, .factor = 8, .low = 1, .high = 4, .original_positions = 64};
  for (std::int64_t i = 0; i < 16; ++i) {
    const double plain = std::pow(500.0, -2.0 * static_cast<double>(i) / 32.0), wavelength = 2 * std::numbers::pi / plain;
    double expected = plain;
    if (wavelength > 64.0 / 1) expected = plain / 8;
    if (wavelength <= 64.0 / 1 && wavelength >= 64.0 / 4) {
      const double smooth = (64.0 / wavelength - 1) / (4 - 1);
      expected = (1 - smooth) * plain / 8 + smooth * plain;
    }
    EXPECT_DOUBLE_EQ(f.at(i, 32), expected) << i;
  }
  EXPECT_EQ(f.at(0, 32), 1.0);
  EXPECT_EQ(f.at(15, 32), std::pow(500.0, -30.0 / 32.0) / 8);
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
  std::int64_t pitch = 0;  // columns that w has beyond its own
};

// Some ids lie below, some above the rows [first, first + rows); ids repeat.
Fill some_ids(Lookup s) {
  return [=](std::int64_t i) { return static_cast<double>((i * 5 + 3) % (s.rows + 4) + std::max<std::int64_t>(s.first - 2, 0)); };
}

Case embedding_case(Lookup s) {
  return {.name = fmt::format("embedding n={} h={} rows={} first={}", s.n, s.h, s.rows, s.first),
          .operands = {required(output("y", {s.n, s.h})), wider(input("w", {s.rows, s.h}), s.pitch), ids("ids", {s.n}, some_ids(s))},
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
          .operands = {wider(updated("dw", {s.rows, s.h}, 64), s.pitch), input("dy", {s.n, s.h}), ids("ids", {s.n}, some_ids(s))},
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
  for (const Lookup& s : {Lookup{1, 1, 1, 0}, {7, 5, 3, 4}, {7, 5, 3, 4, 6}, {300, 257, 40, 9}, {300, 257, 40, 9, 31}}) {
    check_case(embedding_case(s));
    check_case(in_bf16(embedding_case(s), {"y", "w"}));
    check_case(embedding_backward_case(s));
    check_case(in_bf16(embedding_backward_case(s), {"dy"}));
  }
  check_gradient(embedding_case({7, 5, 3, 4}), embedding_backward_case({7, 5, 3, 4}));
}

}  // namespace
}  // namespace offramp::testing
