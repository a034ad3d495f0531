// Attention.
#include "products.h"

namespace offramp::testing {
namespace {

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

TEST(Attention, NamesWhatDoesNotFit) {
  Arena memory(Backing::host, 1 << 20), scratch(Backing::host, 1 << 20);
  Context context = context_over(scratch);
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

TEST(Attention, RanksAsThreadsComputeTheSameBits) {
  expect_same_on_threads({attention_case({2, 70, 2, 2, 32}), attention_backward_case({2, 70, 2, 2, 32})});
}

}  // namespace
}  // namespace offramp::testing
