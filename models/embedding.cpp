// The first unit: token ids to vectors.
#include "models/model.h"
#include "tensor/check.h"

namespace offramp {
namespace {

class Embedding final : public Module {
 public:
  explicit Embedding(const ModelConfig& config)
      : weight_{.shape = {config.vocab_size, config.hidden_size},
                .init = {.deviation = config.initializer_range},
                .pieces = {whole("model.embed_tokens.weight", {config.vocab_size, config.hidden_size})},
                .writer = Writer::lookup} {}

  void forward(Context& ctx, Tensor y, Tensor x, Slot& slot) override {
    embedding(ctx, y, weight_.value, x);
    slot.push(x);
  }

  void backward(Context& ctx, Tensor dx, Tensor dy, Slot& slot) override {
    OFFRAMP_CHECK(!dx.defined(), "[embedding] token ids have no gradient, {} was given for one", to_text(dx.shape));
    const Tensor ids = slot.pop();
    if (weight_.grad.defined()) embedding_backward(ctx, weight_.grad, dy, ids);
  }

  void visit(const Visitor& visitor) override { visitor(weight_); }

 private:
  Parameter weight_;  // [V, h]
};

}  // namespace

ModulePtr make_embedding(const ModelConfig& config) { return std::make_unique<Embedding>(config); }

}  // namespace offramp
