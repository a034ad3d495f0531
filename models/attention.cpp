// The first half of a transformer layer: y = x + O(attention(rope(QKV(norm(x))))).
#include "models/model.h"

namespace offramp {
namespace {

// k, v and the q query heads of each group side by side, so that a group (and with it a tensor-parallel rank's share) is one
// stretch of rows: qkv [G * (2 + q) * d, h].
std::vector<Piece> qkv_pieces(const ModelConfig& config, const std::string& prefix) {
  const std::int64_t groups = config.num_key_value_heads, q = config.queries_per_group(), h = config.hidden_size;
  const std::int64_t head = config.head_size() * h;  // elements of one head's rows
  const auto piece = [&](const char* name, std::int64_t first, std::int64_t heads) {
    Piece p{.name = prefix + ".self_attn." + name, .global = {groups * heads * config.head_size(), h}, .local_first = first * head};
    p.axes[0] = {groups, heads * head, (2 + q) * head};
    p.axes[1] = {heads * head, 1, 1};
    return p;
  };
  return {piece("q_proj.weight", 2, q), piece("k_proj.weight", 0, 1), piece("v_proj.weight", 1, 1)};
}

class Attention final : public Module {
 public:
  Attention(const ModelConfig& config, const UnitOptions& options, std::shared_ptr<const Tensor> rope_table)
      : groups_(config.num_key_value_heads),
        queries_(config.queries_per_group()),
        head_size_(config.head_size()),
        rope_table_(std::move(rope_table)),
        norm_(options.prefix + ".input_layernorm.weight", config.hidden_size, config.rms_norm_eps, options.owner),
        qkv_({groups_ * (2 + queries_) * head_size_, config.hidden_size}, {.deviation = config.initializer_range},
             qkv_pieces(config, options.prefix), options.owner),
        o_({config.hidden_size, config.hidden_size}, {.deviation = residual_deviation(config)},
           {whole(options.prefix + ".self_attn.o_proj.weight", {config.hidden_size, config.hidden_size})}, options.owner) {}

  void forward(Context& ctx, Tensor y, Tensor x, Slot& slot) override {
    const std::int64_t n = x.shape[0], h = x.shape[1];
    const Tensor xn = slot.tensor({n, h});
    norm_.forward(ctx, xn, x, slot);
    const Tensor qkv = slot.tensor({n, groups_, 2 + queries_, head_size_});
    qkv_.forward(ctx, flat(qkv), xn, slot);
    rope(ctx, qkv, *rope_table_, slot.sequences(), false);
    const Tensor out = slot.tensor({n, groups_, queries_, head_size_});
    const Tensor lse = slot.tensor({groups_ * queries_, n});
    attention(ctx, out, lse, qkv, slot.sequences());
    slot.push(qkv);
    slot.push(lse);
    slot.push(out);
    o_.forward(ctx, y, flat(out), slot, x);
  }

  void backward(Context& ctx, Tensor dx, Tensor dy, Slot& slot) override {
    const std::int64_t n = dy.shape[0];
    Scratch scope(ctx);
    const Tensor d_out = scope.tensor({n, groups_, queries_, head_size_}, DType::f32);
    o_.backward(ctx, flat(d_out), dy, slot);
    const Tensor out = slot.pop(), lse = slot.pop(), qkv = slot.pop();
    const Tensor d_qkv = scope.tensor(qkv.shape, DType::f32);
    attention_backward(ctx, d_qkv, d_out, out, lse, qkv, slot.sequences());
    rope(ctx, d_qkv, *rope_table_, slot.sequences(), true);
    const Tensor d_xn = flat(d_out);  // d_out is spent, and as large
    qkv_.backward(ctx, d_xn, flat(d_qkv), slot);
    norm_.backward(ctx, dx, d_xn, dy, slot);
  }

  void visit(const Visitor& visitor) override {
    norm_.visit(visitor);
    qkv_.visit(visitor);
    o_.visit(visitor);
  }

 private:
  static Tensor flat(Tensor t) { return t.reshape({t.shape[0], t.elements() / t.shape[0]}); }  // [n, everything else]

  std::int64_t groups_, queries_, head_size_;
  std::shared_ptr<const Tensor> rope_table_;
  Norm norm_;
  Linear qkv_, o_;
};

}  // namespace

ModulePtr make_attention(const ModelConfig& config, const UnitOptions& options, std::shared_ptr<const Tensor> rope_table) {
  return std::make_unique<Attention>(config, options, std::move(rope_table));
}

}  // namespace offramp
