// Matrix products and attention.
#include <thread>

#include "registry.h"
#include "tensor/cpu/products.h"

namespace offramp::testing {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// A sum of `depth` rounded products strays like a random walk, of as many steps.
double sum_bound(std::int64_t depth) { return 4 + 2 * std::sqrt(static_cast<double>(depth)); }

// ---- products

struct Sizes {
  std::int64_t n, h, o;
  std::int64_t pitch = 0;  // columns that every operand's memory has beyond its own
  bool residual = false, bias = false;
  DType type = DType::f32;
  bool logits = false;  // f32 whatever the operands are
};

template <class S>
S in_bf16(S sizes) {
  return sizes.type = DType::bf16, sizes;
}

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

// ---- attention

struct Heads {
  std::int64_t sequences, length, groups, queries, size;
  std::int64_t document = 0;  // tokens a document; 0: no document mask
  double spread = 1;          // of qkv
  DType type = DType::f32;
  float dropout = 0;
  std::int64_t tokens() const { return sequences * length; }
  std::int64_t first_key(std::int64_t token) const { return document ? token % length / document * document : 0; }
  // Where an element of qkv, and one of out, lies. slot: 0 key, 1 value, 2.. query heads.
  std::size_t in(std::int64_t token, std::int64_t group, std::int64_t slot, std::int64_t c) const {
    return at(((token * groups + group) * (2 + queries) + slot) * size + c);
  }
  std::size_t out(std::int64_t token, std::int64_t group, std::int64_t query, std::int64_t c) const {
    return at(((token * groups + group) * queries + query) * size + c);
  }
  std::size_t row(std::int64_t token, std::int64_t group, std::int64_t query) const {
    return at((group * queries + query) * tokens() + token);
  }
  double scale() const { return 1 / std::sqrt(static_cast<double>(size)); }
  // These groups as every other one of a wider model, from its second on.
  AttentionDrop drop() const {
    return {.p = dropout,
            .key = {.seed = 5, .use = Use::dropout},
            .first_sample = 3,
            .heads = (1 + 2 * groups) * queries,
            .first_group = 1,
            .group_step = 2};
  }
  // What dropout multiplies a probability by.
  double factor(std::int64_t token, std::int64_t group, std::int64_t query, std::int64_t key_token) const {
    const std::int64_t sample = 3 + token / length, head = (1 + 2 * group) * queries + query;
    const std::int64_t number = ((sample * drop().heads + head) * length + token % length) * length + key_token % length;
    if (dropout > 0 && uniform(drop().key, static_cast<std::uint64_t>(number)) < dropout) return 0;
    return 1 / (1 - static_cast<double>(dropout));
  }
  std::string text() const {
    return fmt::format("{} {} x {} tokens, {} groups of {}, d={} document={} dropout={}", name_of(type), sequences, length, groups, queries,
                       size, document, dropout);
  }
};

// Calls f(token, group, query, visible) for every row of every head; visible: tokens it sees, from the first on up to itself.
template <class F>
void each_row(const Heads& a, F f) {
  for (std::int64_t token = 0; token < a.tokens(); ++token) {
    for (std::int64_t g = 0; g < a.groups; ++g) {
      for (std::int64_t q = 0; q < a.queries; ++q) f(token, g, q, token / a.length * a.length + a.first_key(token));
    }
  }
}

double score(const Heads& a, std::vector<double>& qkv, std::int64_t token, std::int64_t g, std::int64_t q, std::int64_t key) {
  double sum = 0;
  for (std::int64_t c = 0; c < a.size; ++c) sum += qkv[a.in(token, g, 2 + q, c)] * qkv[a.in(key, g, 0, c)];
  return sum * a.scale();
}

void reference_attention(const Heads& a, Values& v) {
  each_row(a, [&](std::int64_t token, std::int64_t g, std::int64_t q, std::int64_t first) {
    std::vector<double> s;
    for (std::int64_t j = first; j <= token; ++j) s.push_back(score(a, v["qkv"], token, g, q, j));
    const double most = *std::max_element(s.begin(), s.end());
    double sum = 0;
    for (const double x : s) sum += std::exp(x - most);
    const double lse = most + std::log(sum);
    v["lse"][a.row(token, g, q)] = lse;
    for (std::int64_t c = 0; c < a.size; ++c) {
      double& out = v["out"][a.out(token, g, q, c)] = 0;
      for (std::int64_t j = first; j <= token; ++j)
        out += a.factor(token, g, q, j) * std::exp(s[at(j - first)] - lse) * v["qkv"][a.in(j, g, 1, c)];
    }
  });
}

// The maths of attention_backward.cpp's head, one (row, key) after the other.
void reference_attention_backward(const Heads& a, Values& v) {
  auto &d = v["d_qkv"], &qkv = v["qkv"];
  std::fill(d.begin(), d.end(), 0.0);
  each_row(a, [&](std::int64_t token, std::int64_t g, std::int64_t q, std::int64_t first) {
    double delta = 0;
    for (std::int64_t c = 0; c < a.size; ++c) delta += v["d_out"][a.out(token, g, q, c)] * v["out"][a.out(token, g, q, c)];
    for (std::int64_t j = first; j <= token; ++j) {
      const double p = std::exp(score(a, qkv, token, g, q, j) - v["lse"][a.row(token, g, q)]);
      const double factor = a.factor(token, g, q, j);
      double dp = 0;
      for (std::int64_t c = 0; c < a.size; ++c) dp += factor * v["d_out"][a.out(token, g, q, c)] * qkv[a.in(j, g, 1, c)];
      const double ds = p * (dp - delta) * a.scale();
      for (std::int64_t c = 0; c < a.size; ++c) {
        d[a.in(token, g, 2 + q, c)] += ds * qkv[a.in(j, g, 0, c)];
        d[a.in(j, g, 0, c)] += ds * qkv[a.in(token, g, 2 + q, c)];
        d[a.in(j, g, 1, c)] += factor * p * v["d_out"][a.out(token, g, q, c)];
      }
    }
  });
}

Operand qkv_operand(const Heads& a) {
  return of_type(input("qkv", {a.tokens(), a.groups, 2 + a.queries, a.size},
                       [=](std::int64_t i) { return a.spread * normal({.seed = 3}, static_cast<std::uint64_t>(i)); }),
                 a.type);
}

Sequences sequences_of(const Heads& a, const Tensors& t) { return {.length = a.length, .first_key = t["first_key"]}; }

void add_first_key(Case& c, const Heads& a) {
  if (a.document) c.operands.push_back(ids("first_key", {a.tokens()}, [=](std::int64_t i) { return static_cast<double>(a.first_key(i)); }));
}

// Scores have the rounding of a sum over the head, times their own size (spread^2, six deviations at most).
// In bf16 probabilities are rounded to 2^-9 of themselves, in any direction, before they are multiplied.
double attention_bound(const Heads& a) {
  const double rounding = a.type == DType::bf16 ? 0x1p-9 / 0x1p-24 : 0;
  return 6 * a.spread * a.spread * sum_bound(a.size) + sum_bound(a.length) + rounding;
}

Case attention_case(const Heads& a) {
  Case c = {.name = "attention " + a.text(),
            .operands = {required(of_type(output("out", {a.tokens(), a.groups, a.queries, a.size}, attention_bound(a)), a.type)),
                         output("lse", {a.groups * a.queries, a.tokens()}, sum_bound(a.size)), qkv_operand(a)},
            .run = [=](Context& x, const Tensors& t) { attention(x, t["out"], t["lse"], t["qkv"], sequences_of(a, t), a.drop()); },
            .reference = [=](Values& v) { reference_attention(a, v); }};
  add_first_key(c, a);
  return c;
}

Case attention_backward_case(const Heads& a) {
  const auto lse = [](std::int64_t i) { return 3 + 0.1 * static_cast<double>(i % 7); };  // any numbers do: p need not sum to 1
  Case c = {.name = "attention_backward " + a.text(),
            .operands = {of_type(output("d_qkv", {a.tokens(), a.groups, 2 + a.queries, a.size}, 2 * attention_bound(a)), a.type),
                         of_type(input("d_out", {a.tokens(), a.groups, a.queries, a.size}), a.type),
                         of_type(input("out", {a.tokens(), a.groups, a.queries, a.size}), a.type),
                         input("lse", {a.groups * a.queries, a.tokens()}, lse), qkv_operand(a)},
            .run =
                [=](Context& x, const Tensors& t) {
                  attention_backward(x, t["d_qkv"], t["d_out"], t["out"], t["lse"], t["qkv"], sequences_of(a, t), a.drop());
                },
            .reference = [=](Values& v) { reference_attention_backward(a, v); }};
  add_first_key(c, a);
  return c;
}

// Lengths around a tile (8), a vector (16), a strip (32) and a block (64); head sizes around a vector; documents around all of them.
const std::vector<Heads> kHeads = {{1, 1, 1, 1, 2},      {2, 7, 1, 2, 6},        {1, 33, 2, 1, 18},    {2, 64, 2, 2, 32},
                                   {1, 65, 1, 3, 16},    {1, 130, 2, 1, 64},     {1, 97, 1, 1, 80},    {3, 9, 1, 1, 4, 1},
                                   {2, 50, 1, 2, 10, 7}, {1, 200, 1, 2, 32, 90}, {1, 150, 1, 1, 8, 64}};

Heads with_dropout(Heads a) { return a.dropout = 0.3f, a; }
std::vector<Heads> variants(const Heads& a) { return {a, in_bf16(a), with_dropout(a), in_bf16(with_dropout(a))}; }

TEST(Attention, Forward) {
  for (const Heads& a : kHeads) {
    for (const Heads& each : variants(a)) check_case(attention_case(each));
  }
}

TEST(Attention, Backward) {
  for (const Heads& a : kHeads) {
    for (const Heads& each : variants(a)) check_case(attention_backward_case(each));
  }
}

TEST(Attention, LargeScoresDoNotOverflow) {
  check_case(attention_case({.sequences = 1, .length = 70, .groups = 1, .queries = 2, .size = 32, .spread = 10}));
}

TEST(Attention, GradientAgreesWithFiniteDifferences) {
  for (const Heads& a : {Heads{1, 1, 1, 1, 2}, {2, 5, 2, 2, 4}, {1, 9, 1, 3, 6, 4}}) {
    for (const Heads& each : {a, with_dropout(a)}) check_gradient(attention_case(each), attention_backward_case(each));
  }
}

// ---- what plan mode says

struct Planned {
  Meter meter;
  std::size_t scratch = 0;
};

Planned plan(const Case& c) {
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

TEST(Products, PlanCountsMultiplyAddsAsTwo) {
  const Sizes s = {512, 256, 768};
  for (const Case& c : {linear_case(s), backward_input_case(s), backward_weight_case(s)})
    EXPECT_EQ(plan(c).meter.total.flops, 2.0 * 512 * 256 * 768) << c.name;
}

TEST(Attention, PlanCountsTheCausalHalf) {
  const Heads a = {.sequences = 4, .length = 256, .groups = 2, .queries = 3, .size = 64};
  const double forward = 0.5 * 4 * 1024 * 256 * 64 * 6;
  EXPECT_EQ(plan(attention_case(a)).meter.total.flops, forward);
  EXPECT_EQ(plan(attention_backward_case(a)).meter.total.flops, 2.5 * forward);
}

TEST(Attention, ScratchGrowsWithOneSequenceOnly) {
  const Heads one = {4, 1024, 2, 2, 64}, many = {16, 1024, 2, 2, 64}, longer = {4, 4096, 2, 2, 64};
  EXPECT_EQ(plan(attention_case(one)).scratch, plan(attention_case(many)).scratch);
  EXPECT_EQ(plan(attention_backward_case(one)).scratch, plan(attention_backward_case(many)).scratch);
  EXPECT_LE(plan(attention_case(longer)).scratch, 4 * plan(attention_case(one)).scratch);
  EXPECT_LE(plan(attention_backward_case(longer)).scratch, 4 * plan(attention_backward_case(one)).scratch);
}

// ---- mistakes

TEST(Products, NamesTheOperandThatDoesNotFit) {
  Arena memory(Backing::host, 1 << 20), scratch(Backing::host, 1 << 20);
  Context context = context_over(scratch);
  const auto matrix = [&](std::int64_t rows, std::int64_t columns) { return memory.tensor({rows, columns}, DType::f32); };
  const auto message_of = [](const std::function<void()>& work) -> std::string {
    try {
      work();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_NE(
      message_of([&] { linear(context, matrix(4, 3), matrix(4, 5), matrix(3, 6)); }).find("[linear] w is f32 [3, 6], wanted f32 [3, 5]"),
      std::string::npos);
  const Tensor half = memory.tensor({4, 5}, DType::bf16);
  EXPECT_NE(message_of([&] { linear(context, matrix(4, 3), half, matrix(3, 5)); }).find("w is f32 [3, 5], wanted bf16 [3, 5]"),
            std::string::npos);
  EXPECT_NE(message_of([&] { linear_backward_weight(context, matrix(3, 5), matrix(4, 3), matrix(2, 5)); }).find("x is f32 [2, 5]"),
            std::string::npos);
  const Tensor qkv = memory.tensor({6, 1, 3, 4}, DType::f32), out = memory.tensor({6, 1, 1, 4}, DType::f32);
  EXPECT_NE(message_of([&] { attention(context, out, {}, qkv, {.length = 4}); }).find("6 tokens are no multiple of sequences of 4"),
            std::string::npos);
  EXPECT_NE(message_of([&] { attention_backward(context, qkv, out, out, {}, qkv, {.length = 6}); }).find("lse is undefined"),
            std::string::npos);
}

TEST(Attention, NaNStaysVisible) {
  const Heads a = {1, 40, 1, 1, 16};
  Case c = attention_case(a);
  c.operands[2].fill = [=](std::int64_t i) { return at(i) == a.in(20, 0, 2, 3) ? std::nan("") : 0.5; };
  const Result result = run_case(c);
  EXPECT_TRUE(std::isnan(result.values.at("out")[a.out(20, 0, 0, 0)]));
  EXPECT_FALSE(std::isnan(result.values.at("out")[a.out(19, 0, 0, 0)]));
}

// Ranks that are threads of one process share nothing.
TEST(Products, RanksAsThreadsComputeTheSameBits) {
  const Case cases[] = {linear_case({64, 48, 80, 0, true}), linear_case(in_bf16(Sizes{64, 48, 80, 0, true, true})),
                        backward_weight_case({64, 48, 80}), attention_case({2, 70, 2, 2, 32}), attention_backward_case({2, 70, 2, 2, 32})};
  std::vector<Result> alone;
  for (const Case& c : cases) alone.push_back(run_case(c));
  std::vector<std::thread> ranks;
  std::vector<int> wrong(4, 0);
  for (std::size_t rank = 0; rank < wrong.size(); ++rank) {
    ranks.emplace_back([&, rank] {
      for (std::size_t i = 0; i < std::size(cases); ++i) {
        const Result mine = run_case(cases[i]);
        for (const auto& [name, values] : mine.values) wrong[rank] += !same_bits(values, alone[i].values.at(name));
      }
    });
  }
  for (auto& rank : ranks) rank.join();
  for (const int w : wrong) EXPECT_EQ(w, 0);
}

}  // namespace
}  // namespace offramp::testing
