// The second half of a transformer layer: y = x + Down(swiglu(GateUp(norm(x)))), in GPT-2 y = x + Down(gelu(Up(norm(x)))).
#include "models/branch.h"
#include "tensor/check.h"

namespace offramp {
namespace {

// Which columns of the intermediate layer this rank has: blocks of it are dealt out in turn. Gate's rows and up's lie side by side
// within a block, so that a narrower MLP is a prefix of rows: up [blocks, (gate, up), block, h].
struct Blocks {
  std::int64_t count, width, hidden, kinds;  // of this rank; kinds: 2 with a gate
  std::int64_t step, first;                  // in blocks: from one of this rank to its next; its first

  Blocks(const ModelConfig& config, const UnitOptions& options)
      : width(block_of(config.intermediate_size, options.tensor.size(), options.space.intermediate_size)),
        hidden(config.hidden_size),
        kinds(config.gpt2() ? 1 : 2),
        step(options.tensor.size()),
        first(options.tensor.rank()) {
    count = config.intermediate_size / (width * step);
  }
  std::int64_t columns() const { return count * width; }
  // This rank's columns of a narrower pass.
  std::int64_t columns(const Subnet& subnet) const {
    const std::int64_t narrower = subnet.intermediate_size;
    if (narrower == 0) return columns();
    OFFRAMP_CHECK(narrower <= all() && narrower % (width * step) == 0, "[mlp] {} columns of {}, which lie in blocks of {} on {} ranks",
                  narrower, all(), width, step);
    return narrower / step;
  }
  std::int64_t all() const { return count * width * step; }

  Piece rows(std::string name, std::int64_t kind, std::int64_t row) const {  // row: elements of one
    Piece p{.name = std::move(name), .global = row > 1 ? Shape{all(), row} : Shape{all()}, .local_first = kind * width * row};
    p.global_first = first * width * row;
    p.axes[0] = {count, step * width * row, kinds * width * row};
    p.axes[1] = {width * row, 1, 1};
    return p;
  }
  Piece down_columns(std::string name) const {
    Piece p{.name = std::move(name), .global = {hidden, all()}, .global_first = first * width};
    p.axes[0] = {hidden, all(), columns()};
    p.axes[1] = {count, step * width, width};
    p.axes[2] = {width, 1, 1};
    return p;
  }
};

LinearOptions up_options(const ModelConfig& config, const UnitOptions& options, const Blocks& blocks) {
  const LayerNames names = Names(config).below(options.prefix);
  LinearOptions linear{.shape = {blocks.kinds * blocks.columns(), config.hidden_size},
                       .init = {.deviation = config.initializer_range},
                       .split = Split::column,
                       .owner = options.owner};
  if (!config.gpt2()) linear.weight.push_back(blocks.rows(weight_of(names.gate), 0, config.hidden_size));
  linear.weight.push_back(blocks.rows(weight_of(names.up), blocks.kinds - 1, config.hidden_size));
  if (config.gpt2()) linear.bias.push_back(blocks.rows(bias_of(names.up), 0, 1));
  return linear;
}

NormOptions norm_of(const ModelConfig& config, const UnitOptions& options) {
  if (!options.norm_name.empty()) return norm_options(config, options.norm_name, options.norm_owner);
  return norm_options(config, Names(config).below(options.prefix).second_norm, options.owner);
}

class Mlp final : public Module {
 public:
  Mlp(const ModelConfig& config, const UnitOptions& options)
      : blocks_(config, options),
        branch_(config, options, "mlp"),
        norm_(norm_of(config, options), options.tensor),
        up_(up_options(config, options, blocks_), options.tensor),
        down_(down_options(config, options, blocks_), options.tensor) {}

  void forward(Context& ctx, Tensor y, Tensor x, Slot& slot) override {
    if (branch_.falls_whole(ctx, slot, x)) return copy(ctx, y, x);
    const std::int64_t n = branch_.tokens(x), columns = blocks_.columns(slot.subnet());
    const NormStats stats = norm_.keep(slot, x);
    const Tensor up = slot.tensor({n, blocks_.kinds * columns}, x.dtype);
    slot.push(up);
    {
      Scratch scope(ctx);
      const Tensor xn = scope.tensor(x.shape, x.dtype);  // [rows, h]
      norm_.forward(ctx, xn, x, stats);
      up_.forward(ctx, up, xn);
    }
    Scratch scope(ctx);
    const Tensor activated = scope.tensor({n, columns}, x.dtype);
    activate(ctx, activated, up);
    down_.forward(ctx, y, activated, branch_.onto(slot, x, x));
  }

  void backward(Context& ctx, Tensor dx, Tensor dy, Slot& slot) override {
    if (branch_.falls_whole(ctx, slot, dy)) return pass(ctx, dx, dy);
    const std::int64_t n = branch_.tokens(dy);
    const Tensor up = slot.pop(), d_up = up;  // [n, kinds * F], one over the other: nothing reads `up` again
    {
      Scratch scope(ctx);
      const Shape shape{n, up.shape[1] / blocks_.kinds};
      const Tensor activated = scope.tensor(shape, dy.dtype), d_activated = scope.tensor(shape, dy.dtype);
      activate(ctx, activated, up);  // cheaper to make again than to keep
      down_.backward(ctx, d_activated, dy, activated, slot, branch_.onto(slot, dy, {}));
      if (gated())
        swiglu_backward(ctx, blocked(d_up), d_activated, blocked(up));
      else
        gelu_backward(ctx, d_up, d_activated, up);
    }
    Scratch scope(ctx);
    const Tensor xn = scope.tensor(dy.shape, dy.dtype);
    norm_.again(ctx, xn, slot);
    Tensor d_xn;  // [rows, h]; a detached exit's copy of its layer's norm wants none
    if (dx.defined() || norm_.learns()) d_xn = scope.tensor(dy.shape, dy.dtype);
    up_.backward(ctx, d_xn, d_up, xn, slot);
    norm_.backward(ctx, dx, d_xn, dy, slot);
  }

  void visit(const Visitor& visitor) override {
    norm_.visit(visitor);
    up_.visit(visitor);
    down_.visit(visitor);
  }

 private:
  static LinearOptions down_options(const ModelConfig& config, const UnitOptions& options, const Blocks& blocks) {
    const std::string name = Names(config).below(options.prefix).down;
    return output_options(config, options, name, blocks.columns(), blocks.down_columns(weight_of(name)));
  }
  void activate(Context& ctx, Tensor y, Tensor up) const {
    if (gated()) return swiglu(ctx, y, blocked(up));
    gelu(ctx, y, up);
  }
  bool gated() const { return blocks_.kinds == 2; }
  Tensor blocked(Tensor up) const { return up.reshape({up.shape[0], up.shape[1] / (2 * blocks_.width), 2, blocks_.width}); }

  Blocks blocks_;
  Branch branch_;
  Norm norm_;
  Linear up_, down_;
};

}  // namespace

ModulePtr make_mlp(const ModelConfig& config, const UnitOptions& options) { return std::make_unique<Mlp>(config, options); }

}  // namespace offramp
