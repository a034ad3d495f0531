// Which elements of the whole model each tensor of a subnet is made of.
#include "checkpoint/subnet_source.h"

#include <gtest/gtest.h>

#include "tests/checkpoint/numbered_source.h"
#include "tests/checkpoint/small_export.h"
#include "tests/files.h"

namespace offramp::testing {
namespace {

// A subnet of a small model, whose elements say where they come from.
struct Cut {
  Cut(const ModelConfig& whole_model, std::vector<ExitSpec> of_whole, const Subnet& subnet)
      : model(whole_model), exits(std::move(of_whole)), whole(model, exits), cut(whole, model, exits, subnet) {}

  Shape shape_of(const std::string& name) const { return shape_in(cut.entries(), name); }
  static Shape shape_in(const std::vector<TensorEntry>& entries, const std::string& name) {
    for (const TensorEntry& entry : entries)
      if (entry.name == name) return entry.shape;
    return {};
  }
  // That element (row, column) of `name` is (row_of(row), column_of(column)) of `origin`; read whole, in odd parts, and by boxes.
  template <class Row, class Column>
  void expect(const std::string& name, const std::string& origin, Row&& row_of, Column&& column_of) {
    SCOPED_TRACE(name);
    const Shape shape = shape_of(name);
    ASSERT_GT(shape.rank, 0);
    const Matrix here = matrix_of(shape), there = matrix_of(shape_in(whole.entries(), origin));
    std::vector<float> expected;
    for (std::int64_t r = 0; r < here.rows; ++r)
      for (std::int64_t c = 0; c < here.columns; ++c) expected.push_back(numbered(origin, row_of(r) * there.columns + column_of(c)));
    std::vector<float> values(expected.size());
    const auto count = static_cast<std::int64_t>(values.size());
    cut.read(name, 0, count, values.data());
    EXPECT_EQ(values, expected);
    for (std::int64_t first = 0, part = 1; first < count; first += part, part = std::min(count - first, part * 3 + 2))
      cut.read(name, first, std::min(part, count - first), values.data() + first);
    EXPECT_EQ(values, expected);
    const Box box{here.rows / 3, here.rows - here.rows / 3, here.columns / 4, here.columns / 2};
    std::vector<float> part(static_cast<std::size_t>(box.elements()));
    cut.read_box(name, shape, box, part.data());
    for (std::int64_t r = 0; r < box.rows; ++r)
      for (std::int64_t c = 0; c < box.columns; ++c)
        ASSERT_EQ(part[static_cast<std::size_t>(r * box.columns + c)],
                  expected[static_cast<std::size_t>((box.row + r) * here.columns + box.column + c)]);
  }
  void expect_prefix(const std::string& name, const std::string& origin) { expect(name, origin, std::identity{}, std::identity{}); }
  void expect_prefix(const std::string& name) { expect_prefix(name, name); }

  ModelConfig model;
  std::vector<ExitSpec> exits;
  NumberedSource whole;
  SubnetSource cut;
};

// Two of the three query heads, of four rows each, of each key-value group.
std::int64_t query_row(std::int64_t row) { return row / 8 * 12 + row % 8; }

TEST(SubnetSource, EveryAxisIsAPrefixButThatOfQueries) {
  const Subnet subnet{.hidden_size = 16, .intermediate_size = 20, .queries_per_group = 2};
  Cut c(small_model(), all_exits(), subnet);
  EXPECT_EQ(c.cut.config(), narrowed(c.model, subnet));
  EXPECT_EQ(c.cut.config().head_size(), 4);
  for (const std::string& layer : {std::string("model.layers.1"), std::string("exits.2.block")}) {
    const std::string attention = layer + ".self_attn.", mlp = layer + ".mlp.";
    c.expect(attention + "q_proj.weight", attention + "q_proj.weight", query_row, std::identity{});
    c.expect(attention + "o_proj.weight", attention + "o_proj.weight", std::identity{}, query_row);
    for (const char* name : {"k_proj.weight", "v_proj.weight"}) c.expect_prefix(attention + name);
    for (const char* name : {"gate_proj.weight", "up_proj.weight", "down_proj.weight"}) c.expect_prefix(mlp + name);
    c.expect_prefix(layer + ".input_layernorm.weight");
  }
  for (const char* name : {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", "exits.1.mlp.down_proj.weight",
                           "exits.2.norm.weight", "exits.1.head.weight"})
    c.expect_prefix(name);
  EXPECT_EQ(c.shape_of("model.layers.1.self_attn.q_proj.weight"), (Shape{16, 16}));
  EXPECT_EQ(c.shape_of("model.layers.1.mlp.down_proj.weight"), (Shape{16, 20}));
  EXPECT_EQ(c.shape_of("lm_head.weight"), (Shape{50, 16}));
}

TEST(SubnetSource, FewerGroupsLeaveWholeGroups) {
  Cut c(small_model(), {}, {.num_key_value_heads = 1});
  EXPECT_EQ(c.cut.config().num_attention_heads, 3);
  EXPECT_EQ(c.shape_of("model.layers.0.self_attn.k_proj.weight"), (Shape{4, 24}));
  EXPECT_EQ(c.shape_of("model.layers.0.self_attn.o_proj.weight"), (Shape{24, 12}));
  for (const char* name : {"q", "k", "v", "o"}) c.expect_prefix(fmt::format("model.layers.0.self_attn.{}_proj.weight", name));
  Cut both(small_model(), {}, {.num_key_value_heads = 1, .queries_per_group = 2});
  both.expect("model.layers.2.self_attn.q_proj.weight", "model.layers.2.self_attn.q_proj.weight", query_row, std::identity{});
  EXPECT_EQ(both.shape_of("model.layers.2.self_attn.q_proj.weight"), (Shape{8, 24}));
}

TEST(SubnetSource, BiasesAreCutToo) {
  Cut c(small_gpt2(), {}, {.hidden_size = 12, .intermediate_size = 9, .num_key_value_heads = 3});
  for (const char* name : {"attn.q_proj.bias", "attn.c_proj.bias", "mlp.c_fc.bias", "mlp.c_fc.weight", "mlp.c_proj.bias", "ln_1.bias"})
    c.expect_prefix(std::string("transformer.h.1.") + name);
  c.expect_prefix("transformer.wpe.weight");
  EXPECT_EQ(c.shape_of("transformer.h.1.attn.q_proj.bias"), (Shape{15}));
}

TEST(SubnetSource, TheExitAtItsDepthIsTheFinalHead) {
  Cut c(small_model(), all_exits(), {.num_hidden_layers = 2, .intermediate_size = 20});
  EXPECT_EQ(c.cut.config().num_hidden_layers, 3);  // a block is one more layer
  EXPECT_EQ(c.cut.config().intermediate_size, 20);
  c.expect_prefix("model.norm.weight", "exits.2.norm.weight");
  c.expect_prefix("lm_head.weight", "exits.2.head.weight");
  c.expect_prefix("model.layers.2.mlp.up_proj.weight", "exits.2.block.mlp.up_proj.weight");
  c.expect_prefix("model.layers.1.mlp.up_proj.weight");
  ASSERT_EQ(c.cut.exits().size(), 1u);
  EXPECT_EQ(c.cut.exits()[0].layer, 1);
  c.expect_prefix("exits.1.mlp.up_proj.weight");
  EXPECT_EQ(c.shape_of("exits.3.norm.weight").rank, 0);
}

// What an exit shares with the whole's final head is its own where the subnet's final head is another.
TEST(SubnetSource, ExitsBelowKeepWhatTheyShared) {
  const ExitSpec low{.layer = 1, .shared_output = true, .shared_norm = true};
  Cut own(small_model(true), {low, {.layer = 2}}, {.num_hidden_layers = 2});
  ASSERT_EQ(own.cut.exits().size(), 1u);
  EXPECT_FALSE(own.cut.exits()[0].shared_output || own.cut.exits()[0].shared_norm);
  EXPECT_FALSE(own.cut.config().tie_word_embeddings);
  own.expect_prefix("exits.1.norm.weight", "model.norm.weight");
  own.expect_prefix("exits.1.head.weight", "model.embed_tokens.weight");
  own.expect_prefix("lm_head.weight", "exits.2.head.weight");
  Cut shared(small_model(true), {low, {.layer = 2, .shared_output = true}}, {.num_hidden_layers = 2});
  EXPECT_TRUE(shared.cut.exits()[0].shared_output && !shared.cut.exits()[0].shared_norm);
  EXPECT_TRUE(shared.cut.config().tie_word_embeddings);
  shared.expect_prefix("exits.1.norm.weight", "model.norm.weight");
  EXPECT_EQ(shared.shape_of("exits.1.head.weight").rank, 0);
}

TEST(SubnetSource, TheWholeIsASubnet) {
  const ModelConfig model = small_model();
  for (const Subnet& subnet : {Subnet{}, spelled_out({}, model)}) {
    Cut c(model, all_exits(), subnet);
    EXPECT_EQ(c.cut.config(), model);
    EXPECT_EQ(c.cut.exits().size(), 3u);
    expect_numbered(c.cut, c.whole.entries());
  }
}

TEST(SubnetSource, RefusesADepthWithoutAStockForm) {
  const auto refused = [](int layer) {
    return checkpoint_error([&] { Cut(small_model(), {{.layer = 1, .head = HeadKind::bare}}, {.num_hidden_layers = layer}); });
  };
  EXPECT_NE(refused(1).find("the exit at layer 1 is bare"), std::string::npos);
  EXPECT_NE(refused(2).find("no exit at layer 2"), std::string::npos);
}

}  // namespace
}  // namespace offramp::testing
