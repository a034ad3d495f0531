// The first half of a transformer layer: y = x + O(attention(rope(QKV(norm(x))))). GPT-2's has no rope, but biases and a LayerNorm.
#include "models/branch.h"

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
                       .owner = options.owner};
  const auto add = [&](const std::string& name, std::int64_t slot, std::int64_t count) {
    linear.weight.push_back(heads.rows_of_slot(weight_of(name), slot, count, config.hidden_size));
    if (config.gpt2()) linear.bias.push_back(heads.rows_of_slot(bias_of(name), slot, count, 1));
  };
  add(names.query, 2, heads.queries);
  add(names.key, 0, 1);
  add(names.value, 1, 1);
  return linear;
}

class Attention final : public Module {
 public:
  Attention(const ModelConfig& config, const UnitOptions& options, std::shared_ptr<const Tensor> rope_table)
      : Attention(config, options, std::move(rope_table), Names(config).below(options.prefix)) {}

  void forward(Context& ctx, Tensor y, Tensor x, Slot& slot) override {
    if (branch_.falls_whole(ctx, slot, x)) return copy(ctx, y, x);
    const std::int64_t n = branch_.tokens(x);
    const NormStats stats = norm_.keep(slot, x);
    const Tensor qkv = slot.tensor({n, heads_.groups, 2 + heads_.queries, heads_.size}, x.dtype);
    const Shape of_out{n, heads_.groups, heads_.queries, heads_.size};
    const bool again = slot.makes_attention_again();
    Tensor out = again ? Tensor{} : slot.tensor(of_out, x.dtype);
    const Tensor lse = slot.tensor({heads_.groups * heads_.queries, n}, DType::f32);
    Scratch outputs(ctx);
    if (again) out = outputs.tensor(of_out, x.dtype);
    {
      Scratch scope(ctx);
      const Tensor xn = scope.tensor(x.shape, x.dtype);  // [rows, h]
      norm_.forward(ctx, xn, x, stats);
      qkv_.forward(ctx, flat(qkv), xn);
    }
    if (rope_table_) rope(ctx, qkv, *rope_table_, slot.sequences(), false);
    attention(ctx, out, lse, qkv, slot.sequences(), drop(slot));
    slot.push(qkv);
    slot.push(lse);
    if (!again) slot.push(out);
    o_.forward(ctx, y, flat(out), branch_.onto(slot, x, x));
  }

  void backward(Context& ctx, Tensor dx, Tensor dy, Slot& slot) override {
    if (branch_.falls_whole(ctx, slot, dy)) return pass(ctx, dx, dy);
    const std::int64_t n = branch_.tokens(dy);
    Scratch scope(ctx);
    const Tensor d_out = scope.tensor({n, heads_.groups, heads_.queries, heads_.size}, dy.dtype);
    const bool again = slot.makes_attention_again();
    const Tensor out = again ? scope.tensor(d_out.shape, dy.dtype) : slot.pop(), lse = slot.pop(), qkv = slot.pop();
    if (again) attention(ctx, out, lse, qkv, slot.sequences(), drop(slot));
    o_.backward(ctx, flat(d_out), dy, flat(out), slot, branch_.onto(slot, dy, {}));
    const Tensor d_qkv = scope.tensor(qkv.shape, dy.dtype);
    attention_backward(ctx, d_qkv, d_out, out, lse, qkv, slot.sequences(), drop(slot));
    if (rope_table_) rope(ctx, d_qkv, *rope_table_, slot.sequences(), true);
    const Tensor xn = scope.tensor(dy.shape, dy.dtype), d_xn = scope.tensor(dy.shape, dy.dtype);  // [rows, h]
    norm_.again(ctx, xn, slot);
    qkv_.backward(ctx, d_xn, flat(d_qkv), xn, slot);
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
        o_(output_options(config, options, names.attention_output, heads_.columns(),
                          heads_.output_columns(weight_of(names.attention_output))),
           options.tensor) {}

  static Tensor flat(Tensor t) { return t.reshape({t.shape[0], t.elements() / t.shape[0]}); }  // [n, everything else]

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
