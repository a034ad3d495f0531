// The first unit: token ids to vectors; in GPT-2 with the vectors of their positions added, and dropout.
#include "models/branch.h"
#include "tensor/check.h"

namespace offramp {
namespace {

class Embedding final : public Module {
 public:
  Embedding(const ModelConfig& config, TensorParallel tensor)
      : tensor_(tensor),
        range_(vocabulary_range(config.vocab_size, tensor)),
        dropout_(static_cast<float>(config.hidden_dropout)),
        words_{.shape = {range_.count, config.hidden_size},
               .init = {.deviation = config.initializer_range},
               .pieces = {rows_of(weight_of(Names(config).embedding), {config.vocab_size, config.hidden_size}, range_.first, range_.count)},
               .writer = Writer::lookup} {
    if (!config.gpt2()) return;
    const Shape shape{config.max_position_embeddings, config.hidden_size};
    positions_ = {.shape = shape,
                  .init = {.deviation = config.initializer_range},
                  .pieces = {whole(weight_of(Names(config).positions), shape)},
                  .writer = Writer::lookup,
                  .replicated = tensor.splits()};
  }

  void forward(Context& ctx, Tensor y, Tensor x, Slot& slot) override {
    words(ctx, y, x);
    slot.push(x);
    Scratch scope(ctx);
    const Drop drop = dropout(slot, x.elements());
    if (learns_positions()) {
      const Tensor of_positions = scope.tensor(y.shape, y.dtype);
      embedding(ctx, of_positions, columns_of(positions_.value, y), positions(ctx, scope, x, slot));
      add(ctx, y, of_positions);
    }
    if (drop.p > 0) join(ctx, y, {}, y, {.dropout = drop});
  }

  void backward(Context& ctx, Tensor dx, Tensor dy, Slot& slot) override {
    OFFRAMP_CHECK(!dx.defined(), "[embedding] token ids have no gradient, {} was given for one", to_text(dx.shape));
    const Tensor ids = slot.pop();
    Scratch scope(ctx);
    if (const Drop drop = dropout(slot, ids.elements()); drop.p > 0) {
      const Tensor d_sum = scope.tensor(dy.shape, dy.dtype);
      join_backward(ctx, d_sum, dy, {.dropout = drop});
      dy = d_sum;
    }
    if (learns_positions() && positions_.grad.defined())
      embedding_backward(ctx, columns_of(positions_.grad, dy), dy, positions(ctx, scope, ids, slot));
    if (!words_.grad.defined()) return;
    if (tensor_.splits_rows()) {
      const Tensor all = scope.tensor({ids.elements(), dy.shape[1]}, dy.dtype);
      all_gather(ctx, all, dy, tensor_.group).wait(ctx);
      dy = all;
    }
    embedding_backward(ctx, columns_of(words_.grad, dy), dy, ids, range_.first);
  }

  void visit(const Visitor& visitor) override {
    visitor(words_);
    if (learns_positions()) visitor(positions_);
  }

 private:
  bool learns_positions() const { return !positions_.pieces.empty(); }

  // A narrower pass reads the first columns of every row.
  static Tensor columns_of(const Tensor& table, const Tensor& rows) { return table.narrow(1, 0, rows.shape[1]); }

  // A row of the vocabulary is on one rank, so these sums are exact.
  void words(Context& ctx, Tensor y, Tensor ids) {
    const Tensor table = columns_of(words_.value, y);
    if (!tensor_.splits_rows()) {
      embedding(ctx, y, table, ids, range_.first);
      return all_reduce(ctx, y, tensor_.group).wait(ctx);
    }
    Scratch scope(ctx);
    const Tensor all = scope.tensor({ids.elements(), y.shape[1]}, y.dtype);
    embedding(ctx, all, table, ids, range_.first);
    reduce_scatter(ctx, y, all, tensor_.group).wait(ctx);
  }

  Drop dropout(const Slot& slot, std::int64_t tokens) const {
    if (!slot.draws().on) return {};
    return {.p = dropout_,
            .key = {slot.draws().seed, Use::dropout, hash("embedding")},
            .first_row = slot.draws().first_sample * slot.sequences().length + tensor_.first_row(tokens)};
  }

  // [rows] i32: where each of this rank's tokens stands.
  Tensor positions(Context& ctx, Scratch& scope, Tensor ids, const Slot& slot) const {
    const std::int64_t n = ids.elements(), rows = tensor_.rows(n), first = tensor_.first_row(n);
    const Sequences& sequences = slot.sequences();
    if (sequences.positions.defined()) return sequences.positions.narrow(0, first, rows);
    const Tensor in_order = scope.tensor({rows}, DType::i32);
    for (std::int64_t i = 0; i < rows && !ctx.planning(); ++i)
      in_order.as<std::int32_t>()[i] = static_cast<std::int32_t>((first + i) % sequences.length);
    return in_order;
  }

  TensorParallel tensor_;
  VocabularyRange range_;
  float dropout_;
  Parameter words_;      // [V, h], V of this rank
  Parameter positions_;  // [max_position, h]
};

}  // namespace

ModulePtr make_embedding(const ModelConfig& config, const TensorParallel& tensor) { return std::make_unique<Embedding>(config, tensor); }

}  // namespace offramp
