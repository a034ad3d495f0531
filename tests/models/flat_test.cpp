// Where Flat puts every kind of parameter, and what it says of the places. Offsets are written down, in elements.
#include "models/flat.h"

#include <gtest/gtest.h>

#include <deque>

namespace offramp {
namespace {

// Parameters by name, whose addresses stay.
class Stage {
 public:
  Parameter& add(const std::string& name, Shape shape, Writer writer = Writer::unit, double lr_scale = 1) {
    return parameters_.emplace_back(Parameter{.shape = shape, .pieces = {whole(name, shape)}, .writer = writer, .lr_scale = lr_scale});
  }

 private:
  std::deque<Parameter> parameters_;
};

std::int64_t offset_of(const Flat& flat, const Tensor& grad) {
  return (grad.data - flat.all_gradients().data) / static_cast<std::int64_t>(sizeof(float));
}

std::vector<std::string> names_of(std::span<Parameter* const> parameters) {
  std::vector<std::string> names;
  for (const Parameter* p : parameters) names.push_back(p->name());
  return names;
}

using Row = std::array<std::int64_t, 4>;

std::vector<Row> rows_of(std::span<const Bucket> buckets) {  // begin, end, segment, tie
  std::vector<Row> rows;
  for (const Bucket& b : buckets) rows.push_back({b.range.begin, b.range.end, b.segment, b.tie});
  return rows;
}

// One parameter of every section: a, b matrices, v a vector, t tied and written by head and lookup, g a guest.
class EverySection : public ::testing::Test {
 protected:
  Stage stage;
  Parameter &t = stage.add("t", {2, 9}, Writer::head), &v = stage.add("v", {5}, Writer::head), &a = stage.add("a", {3, 7}, Writer::head);
  Parameter &g = stage.add("g", {10}, Writer::head), &b = stage.add("b", {4, 4}), &looked_up = stage.add("t", {2, 9}, Writer::lookup);
  std::vector<FlatEntry> entries{{&t, 0, 0}, {&v, 0}, {&a, 0}, {&g, 0, 1, false}, {&b, 1}, {&looked_up, 1, 0}};
  std::vector<std::string> state{"exp_avg", "exp_avg_sq"};
  Arena arena{Backing::host, 1 << 16};
  Flat flat{arena, entries, {.optimizer_state = state}};
};

TEST_F(EverySection, LiesInOrderAtMultiplesOfSixteen) {
  const std::vector<std::pair<Parameter*, std::int64_t>> places{{&a, 0}, {&b, 32}, {&v, 48}, {&t, 64}, {&g, 96}, {&looked_up, 112}};
  for (const auto& [parameter, offset] : places) {
    EXPECT_EQ(offset_of(flat, parameter->grad), offset) << parameter->name();
    EXPECT_EQ(parameter->grad.shape, parameter->shape) << parameter->name();
    if (parameter == &looked_up) continue;  // beyond all values
    EXPECT_EQ(parameter->value.data, flat.values({offset, offset + 1}).data) << parameter->name();
  }
  EXPECT_EQ(flat.value_bytes(), 112u * 4);  // no value of a further writer
  EXPECT_EQ(flat.gradient_bytes(), 144u * 4);
  EXPECT_EQ(flat.state_bytes(), 2u * 96u * 4);  // of what is owned
  EXPECT_EQ(flat.state("exp_avg_sq", {32, 48}).data - flat.state("exp_avg_sq", {0, 1}).data, 32 * 4);
  EXPECT_NE(flat.state("exp_avg", {0, 1}).data, flat.state("exp_avg_sq", {0, 1}).data);
  EXPECT_THROW(flat.state("momentum", {0, 1}), Error);
}

TEST_F(EverySection, OwnedAndHolders) {
  EXPECT_EQ(names_of(flat.owned()), (std::vector<std::string>{"a", "b", "v", "t"}));
  EXPECT_EQ(names_of(flat.holders()), (std::vector<std::string>{"a", "b", "v", "t", "g"}));
}

TEST_F(EverySection, ATieKnowsItsAccumulators) {
  ASSERT_EQ(flat.tied().size(), 2u);
  const TiedHere &owned = flat.tied()[0], &guest = flat.tied()[1];
  EXPECT_TRUE(owned.tie == 0 && owned.owner);
  EXPECT_EQ(owned.value.data, t.value.data);
  EXPECT_EQ(owned.grad.data, t.grad.data);
  ASSERT_EQ(owned.writers.size(), 1u);
  EXPECT_EQ(owned.writers[0].data, looked_up.grad.data);
  EXPECT_EQ(looked_up.value.data, t.value.data);
  EXPECT_TRUE(guest.tie == 1 && !guest.owner && guest.writers.empty());
  EXPECT_EQ(guest.value.data, g.value.data);
}

// Vectors go with the last segment, tied tensors with their tie; guests and further writers are nobody's to reduce here.
TEST_F(EverySection, Buckets) {
  const std::vector<Row> expected{{0, 32, 0, -1}, {32, 64, 1, -1}, {64, 96, -1, 0}};
  EXPECT_EQ(rows_of(flat.buckets()), expected);
  EXPECT_EQ(rows_of(plan_buckets(entries)), expected);
}

TEST(Flat, TheLowestKindOfWriterHasTheValueWhateverTheOrder) {
  Stage stage;
  Parameter &lookup = stage.add("t", {16}, Writer::lookup), &unit = stage.add("t", {16}), &head = stage.add("t", {16}, Writer::head);
  Arena arena(Backing::host, 1 << 12);
  const Flat flat(arena, {{&lookup, 0, 0}, {&unit, 0, 0}, {&head, 0, 0}}, {});
  ASSERT_EQ(flat.tied().size(), 1u);
  EXPECT_EQ(flat.tied()[0].grad.data, head.grad.data);
  EXPECT_EQ(offset_of(flat, head.grad), 0);
  EXPECT_EQ(flat.holders().front(), &head);
  EXPECT_EQ(flat.tied()[0].writers.size(), 2u);
  for (const Parameter* p : {&lookup, &unit}) EXPECT_EQ(p->value.data, head.value.data);
  EXPECT_NE(lookup.grad.data, unit.grad.data);
}

// Two exits with one output matrix: one place, complete after the later of their segments.
TEST(Flat, OneNameAndKindOfWriterIsOneParameter) {
  Stage stage;
  Parameter &first = stage.add("w", {4, 4}, Writer::head), &second = stage.add("w", {4, 4}, Writer::head), &other = stage.add("x", {4, 4});
  Arena arena(Backing::host, 1 << 12);
  const Flat flat(arena, {{&first, 0}, {&other, 0}, {&second, 1}}, {});
  EXPECT_EQ(first.grad.data, second.grad.data);
  EXPECT_EQ(first.value.data, second.value.data);
  EXPECT_EQ(names_of(flat.owned()), (std::vector<std::string>{"x", "w"}));
  EXPECT_EQ(rows_of(flat.buckets()), (std::vector<Row>{{0, 16, 0, -1}, {16, 32, 1, -1}}));
  second.shape = {4, 5};
  EXPECT_THROW(plan_buckets({{&first, 0}, {&second, 0}}), Error);
}

TEST(Flat, UpdatesSplitAtDecayAndLearningRate) {
  Stage stage;
  std::vector<FlatEntry> entries{{&stage.add("a", {4, 4}), 0},
                                 {&stage.add("b", {4, 4}, Writer::unit, 2), 0},
                                 {&stage.add("c", {2, 20}, Writer::unit, 2), 0},
                                 {&stage.add("v", {3}, Writer::unit, 2), 0},
                                 {&stage.add("t", {4, 4}, Writer::head), 0, 0},
                                 {&stage.add("u", {7}), 0, 1},
                                 {&stage.add("guest", {4, 4}), 0, 2, false}};
  Arena arena(Backing::host, 1 << 12);
  const Flat flat(arena, entries, {});
  std::vector<std::array<double, 4>> found;
  for (const Update& u : flat.updates())
    found.push_back({static_cast<double>(u.range.begin), static_cast<double>(u.range.end), u.decay ? 1.0 : 0.0, u.lr_scale});
  EXPECT_EQ(found, (std::vector<std::array<double, 4>>{{0, 16, 1, 1}, {16, 80, 1, 2}, {80, 96, 0, 2}, {96, 112, 1, 1}, {112, 128, 0, 1}}));
}

TEST(Flat, WhatEveryTensorRankHoldsHasABucketOfItsOwn) {
  Stage stage;
  Parameter &norm = stage.add("n", {5}), &bias = stage.add("b", {20}), &matrix = stage.add("m", {4, 4}), &table = stage.add("p", {2, 9});
  Parameter& tied = stage.add("t", {3});
  norm.replicated = table.replicated = tied.replicated = true;
  const std::vector<FlatEntry> entries{{&norm, 0}, {&bias, 0}, {&matrix, 1}, {&table, 1}, {&tied, 0, 0}};
  Arena arena(Backing::host, 1 << 12);
  const Flat flat(arena, entries, {});
  EXPECT_EQ(names_of(flat.owned()), (std::vector<std::string>{"m", "n", "p", "b", "t"}));
  EXPECT_EQ(rows_of(flat.buckets()), (std::vector<Row>{{0, 16, 1, -1}, {16, 64, 1, -1}, {64, 96, 1, -1}, {96, 112, -1, 0}}));
  std::vector<bool> replicated;
  for (const Bucket& bucket : flat.buckets()) replicated.push_back(bucket.replicated);
  EXPECT_EQ(replicated, (std::vector<bool>{false, true, false, true}));
}

// Buckets of 80 and 16 elements on three ranks: each keeps 32 and 16 of them, whatever of that is padding.
class Sharded : public ::testing::TestWithParam<bool> {
 protected:
  struct Rank {
    Rank(int rank, bool keeps_all) : flat(arena, entries, {DType::bf16, {"exp_avg"}, rank, 3, !keeps_all}) {}
    Stage stage;
    Parameter &a = stage.add("a", {3, 7}), &v = stage.add("v", {40}), &t = stage.add("t", {3}), &guest = stage.add("g", {2, 2});
    std::vector<FlatEntry> entries{{&a, 0}, {&v, 0}, {&t, 0, 0}, {&guest, 0, 1, false}};
    Arena arena{Backing::host, 1 << 14}, scratch{Backing::host, 1 << 12};
    Flat flat;
  };
};
INSTANTIATE_TEST_SUITE_P(All, Sharded, ::testing::Bool(), [](const auto& all) { return all.param ? "AllState" : "OwnState"; });

TEST_P(Sharded, EveryElementIsKeptOnceOrByAll) {
  std::vector<int> kept(192, 0), updated(192, 0);
  for (int rank = 0; rank < 3; ++rank) {
    const Rank r(rank, GetParam());
    EXPECT_EQ(rows_of(r.flat.buckets()), (std::vector<Row>{{0, 96, 0, -1}, {96, 144, -1, 0}}));
    EXPECT_EQ(offset_of(r.flat, r.v.grad), 32);
    EXPECT_EQ(offset_of(r.flat, r.guest.grad), 144);
    std::int64_t state = 0;
    const float* first = r.flat.state("exp_avg", {r.flat.kept().front().begin, r.flat.kept().front().end}).as<float>();
    for (const Range& k : r.flat.kept()) {
      EXPECT_EQ(r.flat.state("exp_avg", k).as<float>() - first, state);
      state += k.count();
      for (std::int64_t i = k.begin; i < k.end; ++i) ++kept.at(static_cast<std::size_t>(i));
    }
    EXPECT_EQ(r.flat.state_bytes(), static_cast<std::size_t>(state) * 2 * 4);  // exp_avg and masters
    EXPECT_EQ(state, GetParam() ? 144 : 48);
    for (const Update& u : r.flat.updates()) {
      const auto home = std::find_if(r.flat.kept().begin(), r.flat.kept().end(), [&](const Range& k) { return u.range.begin < k.end; });
      EXPECT_EQ(r.flat.state("exp_avg", u.range).as<float>() - r.flat.state("exp_avg", *home).as<float>(), u.range.begin - home->begin);
      for (std::int64_t i = u.range.begin; i < u.range.end; ++i) ++updated.at(static_cast<std::size_t>(i));
    }
  }
  const int copies = GetParam() ? 3 : 1;
  for (std::size_t i = 0; i < 144; ++i) EXPECT_EQ(kept[i], copies) << i;
  for (std::size_t i = 0; i < 144; ++i) {
    const bool element = i < 21 || (i >= 32 && i < 72) || (i >= 96 && i < 99);  // padding may be updated or not: it is zero
    EXPECT_TRUE(updated[i] == copies || (!element && updated[i] == 0)) << i;
  }
}

// Weights are rounded, masters are not; guests have no master.
TEST_P(Sharded, InitialValuesAreRoundedFromTheirMasters) {
  for (int rank = 0; rank < 3; ++rank) {
    Rank r(rank, GetParam());
    Context ctx{.scratch = &r.scratch};
    r.flat.initialize(ctx, 9);
    std::int64_t mastered = 0;
    for (const Parameter* p : r.flat.holders()) {
      std::vector<float> exact(static_cast<std::size_t>(p->shape.elements()));
      initialize(*p, Tensor(exact.data(), p->shape, DType::f32), 9);
      const Range place = r.flat.place(*p);
      for (std::int64_t i = 0; i < place.count(); ++i)
        EXPECT_EQ(p->value.as<bf16>()[i].bits, bf16(exact[static_cast<std::size_t>(i)]).bits) << p->name() << " " << i;
      for (const Range& k : r.flat.kept()) {
        const Range part = k & place;
        for (std::int64_t i = part.begin; i < part.end; ++i, ++mastered)
          EXPECT_EQ(*r.flat.exact({i, i + 1}).as<float>(), exact[static_cast<std::size_t>(i - place.begin)]) << p->name() << " " << i;
      }
    }
    const std::vector<std::int64_t> elements =
        GetParam() ? std::vector<std::int64_t>{64, 64, 64} : std::vector<std::int64_t>{21 + 3, 32, 8};
    EXPECT_EQ(mastered, elements[static_cast<std::size_t>(rank)]);
    EXPECT_THROW(r.flat.exact({144, 148}), Error);
  }
}

TEST(Flat, SizesThatNoHostHoldsAreTheUsersMistake) {
  Stage stage;
  try {
    plan_buckets({{&stage.add("w", {10'000'000, 10'000'000}), 0}});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code, Exit::memory);
  }
}

}  // namespace
}  // namespace offramp
