// A unit or a head that runs a subnet gives what the model of the subnet's sizes gives, whose weights are the slice of the whole's; it
// reads and adds to nothing beside the slice.
#include "pass.h"
#include "tensor/check.h"

namespace offramp::testing {
namespace {

// Two of three query heads a group leave gaps; so does one. Heads are together wider than the residual stream. (No GPT-2 has groups of
// several query heads, but its biases show that a vector may have gaps, too.)
ModelConfig whole_config(const std::string& architecture) {
  ModelConfig config = tiny_config(architecture);
  config.hidden_size = 32, config.intermediate_size = 96;
  config.head_dim = 4, config.num_key_value_heads = 4, config.num_attention_heads = 12;
  return config;
}
const Space kSpace{
    .hidden_size = {16, 32}, .intermediate_size = {24, 48, 72, 96}, .num_key_value_heads = {2, 4}, .queries_per_group = {1, 2, 3}};

struct Named {
  const char* name;
  Subnet subnet;
};
const std::array kSubnets{Named{"ffn", {.intermediate_size = 24}},
                          Named{"groups", {.num_key_value_heads = 2}},
                          Named{"queries", {.queries_per_group = 2}},
                          Named{"hidden", {.hidden_size = 16}},
                          Named{"queries_of_groups", {.num_key_value_heads = 2, .queries_per_group = 1}},
                          Named{"hidden_and_queries", {.hidden_size = 16, .queries_per_group = 2}},
                          Named{"all", {.hidden_size = 16, .intermediate_size = 72, .num_key_value_heads = 2, .queries_per_group = 1}}};

class Elastic : public ::testing::TestWithParam<std::tuple<const char*, int, int>> {
 protected:
  Setting setting() const { return {.config = whole_config(std::get<0>(GetParam())), .space = kSpace, .subnet = subnet()}; }
  static Subnet subnet() { return kSubnets[static_cast<std::size_t>(std::get<2>(GetParam()))].subnet; }
  static Setting by_itself(Setting s) { return s.by_itself = true, s; }
  int part = std::get<1>(GetParam());
};
INSTANTIATE_TEST_SUITE_P(All, Elastic,
                         ::testing::Combine(::testing::Values("llama", "gpt2"), ::testing::Range(0, 9),
                                            ::testing::Range(0, static_cast<int>(kSubnets.size()))),
                         [](const auto& p) {
                           return fmt::format("{}_{}_{}", std::get<0>(p.param), kParts[static_cast<std::size_t>(std::get<1>(p.param))],
                                              kSubnets[static_cast<std::size_t>(std::get<2>(p.param))].name);
                         });

void expect_same(const Outcome& outcome, const Outcome& expected) {
  ASSERT_EQ(outcome.size(), expected.size());
  for (const auto& [name, numbers] : expected) EXPECT_EQ(outcome.at(name).values, numbers.values) << name;
}

TEST_P(Elastic, IsTheModelOfItsSizes) {
  for (const DType precision : {DType::f32, DType::bf16}) {
    Setting s = setting();
    s.precision = precision;
    expect_close(run(s, part), run(by_itself(s), part), precision == DType::f32 ? kAnotherOrder : kBf16);
  }
}

TEST_P(Elastic, IsTheSameAtEveryDegree) {
  Setting s = setting();
  const Outcome alone = run(s, part);
  for (const bool sequence : {false, true}) {
    SCOPED_TRACE(sequence ? "rows split" : "rows whole");
    s.size = 2, s.sequence = sequence;
    expect_close(run(s, part), alone, kAnotherOrder);
  }
}

TEST_P(Elastic, LearnsFromAWiderTeacher) {
  if (part < kUnits) return;
  Setting s = setting();
  s.taught = true;
  for (const Target target : {Target::labels, Target::argmax, Target::distribution}) {
    s.target = target, s.size = 1;
    const Outcome expected = run(by_itself(s), part);
    expect_close(run(s, part), expected, kAnotherOrder);
    s.size = 2;
    expect_close(run(s, part), expected, kAnotherOrder);
  }
}

TEST_P(Elastic, WeightGradientsMayWait) {
  if (part >= kUnits) return;
  for (const int size : {1, 2}) {
    Setting s = setting();
    s.size = size, s.sequence = size > 1;
    const Outcome plain = run(s, part);
    s.deferred = true;
    expect_same(run(s, part), plain);
    s.keep = Keep::all_but_attention;
    expect_same(run(s, part), plain);
  }
}

TEST_P(Elastic, LayersMayFall) {
  if (part >= kUnits) return;
  Setting s = setting();
  s.draws = half_fall();
  expect_close(run(s, part), run(by_itself(s), part), kAnotherOrder);
}

class WholeSubnet : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(All, WholeSubnet, ::testing::Range(0, 9), [](const auto& p) { return kParts[static_cast<std::size_t>(p.param)]; });

// To the bits, whether it says its sizes or not.
TEST_P(WholeSubnet, IsTheWhole) {
  for (const int size : {1, 2}) {
    Setting s{.config = whole_config("llama"), .size = size, .space = kSpace};
    const Outcome whole = run(s, GetParam());
    s.subnet = spelled_out({}, s.config);
    expect_same(run(s, GetParam()), whole);
  }
}

// ---- memory

struct Bytes {
  std::size_t slab, scratch;
  bool operator==(const Bytes&) const = default;
};

Bytes bytes_of(Backing backing, int part, const Subnet& subnet, DType precision) {
  Rig rig(backing);
  const ModelConfig config = whole_config("llama");
  const auto model = make_model(rig, config, every_exit(), {.precision = precision, .space = kSpace});
  const Shape shape{kTokens, spelled_out(subnet, config).hidden_size};
  const Tensor labels = rig.integers({kTokens}, [](std::int64_t i) { return i * 7 % 37; });
  const Tensor x = rig.tensor(shape, precision), y = rig.like(x), dy = rig.like(x), scale = rig.tensor({1});
  if (part >= kUnits) {
    model->heads[static_cast<std::size_t>(part - kUnits)].exit(rig.ctx, dy, rig.tensor({kLossSums}, DType::f64),
                                                               {.x = x, .labels = labels, .scale = scale, .subnet = subnet}, one_document(),
                                                               true);
    return {rig.slab.peak(), rig.scratch.peak()};
  }
  Slot slot(rig.slab, Keep::everything, one_document(), {}, subnet);
  Module& unit = *model->units[static_cast<std::size_t>(part)].module;
  unit.forward(rig.ctx, y, part == 0 ? labels : x, slot);
  unit.backward(rig.ctx, part == 0 ? Tensor{} : dy, dy, slot);
  return {rig.slab.peak(), rig.scratch.peak()};
}

TEST(ElasticMemory, IsThePlannedOne) {
  for (const auto& [name, subnet] : kSubnets)
    for (int part = 0; part < std::ssize(kParts); ++part)
      for (const DType precision : {DType::f32, DType::bf16}) {
        const Bytes planned = bytes_of(Backing::none, part, subnet, precision);
        EXPECT_EQ(bytes_of(Backing::host, part, subnet, precision), planned) << name << " " << part;
        const Bytes whole = bytes_of(Backing::none, part, {}, precision);
        EXPECT_LE(planned.slab, whole.slab) << name << " " << part;
      }
}

// What is kept of an MLP: its input, one number a row, and up and gate; half of them, half of the bytes.
TEST(ElasticMemory, OfHalfAnMlpIsHalf) {
  const auto kept = [](const Subnet& subnet) { return bytes_of(Backing::none, 2, subnet, DType::f32).slab; };
  EXPECT_EQ(kept({}) - kept({.intermediate_size = 48}), kTokens * 2 * 48 * sizeof(float));
}

// ---- what cannot be

TEST(ElasticSizes, OfNoWholeBlocksAreRefused) {
  Rig rig(Backing::none);
  const auto refused = [&](int unit, const Subnet& subnet, const Space& space) {
    const auto model = make_model(rig, whole_config("llama"), {}, {.space = space});
    const Tensor x = rig.tensor({kTokens, 32});
    Slot slot(rig.slab, Keep::nothing, one_document(), {}, subnet);
    EXPECT_THROW(model->units[static_cast<std::size_t>(unit)].module->forward(rig.ctx, rig.like(x), x, slot), Error);
  };
  refused(2, {.intermediate_size = 24}, {});  // gate and up lie apart
  refused(2, {.intermediate_size = 23}, kSpace);
  refused(2, {.intermediate_size = 120}, kSpace);
  refused(1, {.num_key_value_heads = 5}, kSpace);
  refused(1, {.queries_per_group = 4}, kSpace);
}

}  // namespace
}  // namespace offramp::testing
