// The second half of a transformer layer: y = x + Down(swiglu(GateUp(norm(x)))).
#include "models/model.h"

namespace offramp {
namespace {

// Gate's rows, then up's: gate_up [2F, h], one block of swiglu().
std::vector<Piece> gate_up_pieces(const ModelConfig& config, const std::string& prefix) {
  const Shape shape{config.intermediate_size, config.hidden_size};
  Piece gate = whole(prefix + ".mlp.gate_proj.weight", shape), up = whole(prefix + ".mlp.up_proj.weight", shape);
  up.local_first = shape.elements();
  return {std::move(gate), std::move(up)};
}

Norm make_norm(const ModelConfig& config, const UnitOptions& options) {
  if (!options.norm_name.empty()) return {options.norm_name, config.hidden_size, config.rms_norm_eps, options.norm_owner};
  return {options.prefix + ".post_attention_layernorm.weight", config.hidden_size, config.rms_norm_eps, options.owner};
}

class Mlp final : public Module {
 public:
  Mlp(const ModelConfig& config, const UnitOptions& options)
      : norm_(make_norm(config, options)),
        gate_up_({2 * config.intermediate_size, config.hidden_size}, {.deviation = config.initializer_range},
                 gate_up_pieces(config, options.prefix), options.owner),
        down_({config.hidden_size, config.intermediate_size}, {.deviation = residual_deviation(config)},
              {whole(options.prefix + ".mlp.down_proj.weight", {config.hidden_size, config.intermediate_size})}, options.owner) {}

  void forward(Context& ctx, Tensor y, Tensor x, Slot& slot) override {
    const std::int64_t n = x.shape[0], intermediate = gate_up_.out() / 2;
    const Tensor xn = slot.tensor(x.shape);  // [n, h]
    norm_.forward(ctx, xn, x, slot);
    const Tensor gate_up = slot.tensor({n, 2 * intermediate});
    gate_up_.forward(ctx, gate_up, xn, slot);
    const Tensor activated = slot.tensor({n, intermediate});
    swiglu(ctx, activated, blocked(gate_up));
    slot.push(gate_up);
    down_.forward(ctx, y, activated, slot, x);
  }

  void backward(Context& ctx, Tensor dx, Tensor dy, Slot& slot) override {
    const std::int64_t n = dy.shape[0], intermediate = gate_up_.out() / 2;
    Tensor d_gate_up;  // [n, 2F], over gate_up itself: nothing reads that again
    {
      Scratch scope(ctx);
      const Tensor d_activated = scope.tensor({n, intermediate}, DType::f32);
      down_.backward(ctx, d_activated, dy, slot);
      d_gate_up = slot.pop();
      swiglu_backward(ctx, blocked(d_gate_up), d_activated, blocked(d_gate_up));
    }
    Scratch scope(ctx);
    Tensor d_xn;  // [n, h]; a detached exit's copy of its layer's norm wants none
    if (dx.defined() || norm_.learns()) d_xn = scope.tensor(dy.shape, DType::f32);
    gate_up_.backward(ctx, d_xn, d_gate_up, slot);
    norm_.backward(ctx, dx, d_xn, dy, slot);
  }

  void visit(const Visitor& visitor) override {
    norm_.visit(visitor);
    gate_up_.visit(visitor);
    down_.visit(visitor);
  }

 private:
  static Tensor blocked(Tensor gate_up) { return gate_up.reshape({gate_up.shape[0], 1, 2, gate_up.shape[1] / 2}); }

  Norm norm_;
  Linear gate_up_, down_;
};

}  // namespace

ModulePtr make_mlp(const ModelConfig& config, const UnitOptions& options) { return std::make_unique<Mlp>(config, options); }

}  // namespace offramp
