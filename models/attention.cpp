// The first half of a transformer layer: y = x + O(attention(rope(QKV(norm(x))))). GPT-2's has no rope, but biases and a LayerNorm.
#include "models/branch.h"
#include "tensor/check.h"

namespace offramp {
namespace {

// What of the heads this rank has: group j of the model's lives on rank j mod size.
struct Heads {
  std::int64_t groups, queries, size, hidden;  // groups of this rank; query heads a group; of a head; of the model
  std::int64_t step, first;                    // from one group of this rank to its next; its first

  Heads(const ModelConfig& config, const TensorParallel& tensor)
      : groups(config.num_key_value_heads / tensor.size()),
        queries(config.queries_per_group()),
        size(config.head_size()),
        hidden(config.hidden_size),
        step(tensor.size()),
        first(tensor.rank()) {}
  // What a narrower pass uses of them.
  std::int64_t groups_of(const Subnet& subnet) const {
    const std::int64_t fewer = subnet.num_key_value_heads;
    OFFRAMP_CHECK(fewer <= groups * step && fewer % step == 0, "[attention] {} of {} key-value heads on {} ranks", fewer, groups * step,
                  step);
    return fewer == 0 ? groups : fewer / step;
  }
  std::int64_t queries_of(const Subnet& subnet) const {
    const std::int64_t fewer = subnet.queries_per_group;
    OFFRAMP_CHECK(fewer <= queries, "[attention] {} of {} query heads a group", fewer, queries);
    return fewer == 0 ? queries : fewer;
  }
  std::int64_t rows() const { return groups * (2 + queries) * size; }
  std::int64_t columns() const { return groups * queries * size; }

  // `heads` heads of each group, the first of them at slot `slot` of (k, v, q query heads), as rows of h elements: k, v and the
  // query heads of a group lie side by side, so that a group is one stretch of rows.
  Piece rows_of_slot(std::string name, std::int64_t slot, std::int64_t heads, std::int64_t width) const {
    const std::int64_t head = size * width, all = groups * step * heads * size;
    Piece p{.name = std::move(name), .global = width > 1 ? Shape{all, width} : Shape{all}, .local_first = slot * head};
    p.global_first = first * heads * head;
    p.axes[0] = {groups, step * heads * head, (2 + queries) * head};
    p.axes[1] = {heads * head, 1, 1};
    return p;
  }
  Piece output_columns(std::string name) const {
    const std::int64_t group = queries * size, all = groups * step * group;
    Piece p{.name = std::move(name), .global = {hidden, all}, .global_first = first * group};
    p.axes[0] = {hidden, all, columns()};
    p.axes[1] = {groups, step * group, group};
    p.axes[2] = {group, 1, 1};
    return p;
  }
};

LinearOptions qkv_options(const ModelConfig& config, const UnitOptions& options, const Heads& heads) {
  const LayerNames names = Names(config).below(options.prefix);
  LinearOptions linear{.shape = {heads.rows(), config.hidden_size},
                       .init = {.deviation = config.initializer_range},
                       .split = Split::column,
                       .owner = options.owner,
                       .out_groups = heads.groups};
  const auto add = [&](const std::string& name, std::int64_t slot, std::int64_t count) {
    linear.weight.push_back(heads.rows_of_slot(weight_of(name), slot, count, config.hidden_size));
    if (config.gpt2()) linear.bias.push_back(heads.rows_of_slot(bias_of(name), slot, count, 1));
  };
  add(names.query, 2, heads.queries);
  add(names.key, 0, 1);
  add(names.value, 1, 1);
  return linear;
}

LinearOptions o_options(const ModelConfig& config, const UnitOptions& options, const Heads& heads) {
  const std::string name = Names(config).below(options.prefix).attention_output;
  LinearOptions linear = output_options(config, options, name, heads.columns(), heads.output_columns(weight_of(name)));
  linear.in_groups = heads.groups;
  return linear;
}

class Attention final : public Module {
 public:
  Attention(const ModelConfig& config, const UnitOptions& options, std::shared_ptr<const Tensor> rope_table)
      : Attention(config, options, std::move(rope_table), Names(config).below(options.prefix)) {}

  void forward(Context& ctx, Tensor y, Tensor x, Slot& slot) override {
    if (branch_.falls_whole(ctx, slot, x)) return copy(ctx, y, x);
    const std::int64_t n = branch_.tokens(x), groups = heads_.groups_of(slot.subnet()), queries = heads_.queries_of(slot.subnet());
    const NormStats stats = norm_.keep(slot, x);
    const Tensor qkv = slot.tensor({n, groups, 2 + queries, heads_.size}, x.dtype);
    const Shape of_out{n, groups, queries, heads_.size};
    const bool again = slot.makes_attention_again();
    Tensor out = again ? Tensor{} : slot.tensor(of_out, x.dtype);
    const Tensor lse = slot.tensor({groups * queries, n}, DType::f32);
    Scratch outputs(ctx);
    if (again) out = outputs.tensor(of_out, x.dtype);
    {
      Scratch scope(ctx);
      const Tensor xn = scope.tensor(x.shape, x.dtype);  // [rows, h]
      norm_.forward(ctx, xn, x, stats);
      qkv_.forward(ctx, qkv, xn);
    }
    if (rope_table_) rope(ctx, qkv, *rope_table_, slot.sequences(), false);
    attention(ctx, out, lse, qkv, slot.sequences(), drop(slot));
    slot.push(qkv);
    slot.push(lse);
    if (!again) slot.push(out);
    o_.forward(ctx, y, out, branch_.onto(slot, x, x));
  }

  void backward(Context& ctx, Tensor dx, Tensor dy, Slot& slot) override {
    if (branch_.falls_whole(ctx, slot, dy)) return pass(ctx, dx, dy);
    Scratch scope(ctx);
    const bool again = slot.makes_attention_again();
    Tensor out = again ? Tensor{} : slot.pop();
    const Tensor lse = slot.pop(), qkv = slot.pop();
    const Tensor d_out = scope.tensor({qkv.shape[0], qkv.shape[1], qkv.shape[2] - 2, heads_.size}, dy.dtype);
    if (again) out = scope.tensor(d_out.shape, dy.dtype);
    if (again) attention(ctx, out, lse, qkv, slot.sequences(), drop(slot));
    o_.backward(ctx, d_out, dy, out, slot, branch_.onto(slot, dy, {}));
    const Tensor d_qkv = scope.tensor(qkv.shape, dy.dtype);
    attention_backward(ctx, d_qkv, d_out, out, lse, qkv, slot.sequences(), drop(slot));
    if (rope_table_) rope(ctx, d_qkv, *rope_table_, slot.sequences(), true);
    const Tensor xn = scope.tensor(dy.shape, dy.dtype), d_xn = scope.tensor(dy.shape, dy.dtype);  // [rows, h]
    norm_.again(ctx, xn, slot);
    qkv_.backward(ctx, d_xn, d_qkv, xn, slot);
    norm_.backward(ctx, dx, d_xn, dy, slot);
  }

  void visit(const Visitor& visitor) override {
    norm_.visit(visitor);
    qkv_.visit(visitor);
    o_.visit(visitor);
  }

 private:
  Attention(const ModelConfig& config, const UnitOptions& options, std::shared_ptr<const Tensor> rope_table, const LayerNames& names)
      : heads_(config, options.tensor),
        branch_(config, options, "attention"),
        rope_table_(std::move(rope_table)),
        drop_{.p = static_cast<float>(config.attention_dropout),
              .key = {.use = Use::dropout, .id = hash(options.prefix + ".probabilities")},
              .heads = config.num_attention_heads,
              .first_group = heads_.first,
              .group_step = heads_.step},
        norm_(norm_options(config, names.first_norm, options.owner), options.tensor),
        qkv_(qkv_options(config, options, heads_), options.tensor),
        o_(o_options(config, options, heads_), options.tensor) {}

  AttentionDrop drop(const Slot& slot) const {
    if (!slot.draws().on) return {};
    AttentionDrop drop = drop_;
    drop.key.seed = slot.draws().seed;
    drop.first_sample = slot.draws().first_sample;
    return drop;
  }

  Heads heads_;
  Branch branch_;
  std::shared_ptr<const Tensor> rope_table_;  // null: none
  AttentionDrop drop_;
  Norm norm_;
  Linear qkv_, o_;
};

}  // namespace

ModulePtr make_attention(const ModelConfig& config, const UnitOptions& options, std::shared_ptr<const Tensor> rope_table) {
  return std::make_unique<Attention>(config, options, std::move(rope_table));
}

}  // namespace offramp
