// The parts that units are written with: concrete classes, forward and backward side by side.
#pragma once
#include "models/module.h"
#include "models/tensor_parallel.h"

namespace offramp {

// Who a part's parameters belong to: what adds to their gradients, and how they are updated.
struct Ownership {
  Writer writer = Writer::unit;
  double lr_scale = 1;
  bool learns = true;  // false: they get no gradient from this part (a detached exit leaves its layer's norm alone)
};

// How a matrix is split over the tensor group.
//   column   this rank has some outputs: x is whole (with sequence parallelism gathered from all ranks' rows)
//   row      this rank has some inputs: y is the sum over ranks (with sequence parallelism each rank gets its rows of it)
enum class Split : std::uint8_t { none, column, row };

struct LinearOptions {
  Shape shape;  // [out, in] on this rank
  Init init;
  std::vector<Piece> weight, bias;  // no pieces of a bias: there is none
  Split split = Split::none;
  Ownership owner;
  std::int64_t out_groups = 1, in_groups = 1;  // equal parts of an axis, each of which a narrower pass may use the beginning of
};

// What a pass uses of an axis of a parameter: the first `used` of the `stored` elements of each of its first `groups` groups.
struct Extent {
  std::int64_t groups, used, stored;
  std::int64_t elements() const { return groups * used; }
  bool gaps() const { return groups > 1 && used < stored; }
};

// y = x w^T + bias. A row-split one, which ends a branch, also joins it to the residual stream; the bias is added once.
//
// x and y say how much of the weight a pass uses: the first inputs and outputs, as many as [n, ...] has elements a row; as
// [n, G', .., ..], the beginning of each of the first G' of the axis's groups. Where that leaves gaps between groups, products read the
// weight from scratch, put together, and add its gradient group by group where it belongs.
class Linear final : public WeightGradient {
 public:
  struct Onto {
    Tensor residual;
    Drop dropout, layer;
  };
  Linear(LinearOptions options, TensorParallel tensor);
  void forward(Context& ctx, Tensor y, Tensor x, const Onto& onto = {});
  void backward(Context& ctx, Tensor dx, Tensor dy, Tensor x, Slot& slot, const Onto& onto = {});  // dx =; gradients of parameters +=
  // Of one of them only this rank's rows may be given: the others are gathered.
  void weight_gradient(Context& ctx, Tensor dy, Tensor x) override;
  void visit(const Visitor& visitor);

 private:
  struct Used {
    Tensor weight, bias;
  };
  void forward_gathered(Context& ctx, Tensor y, Tensor x, const Used& used);
  void forward_summed(Context& ctx, Tensor y, Tensor x, const Used& used, const Onto& onto);
  Extent outputs(const Tensor& y) const { return extent(y, weight_.shape[0], out_groups_); }
  Extent inputs(const Tensor& x) const { return extent(x, weight_.shape[1], in_groups_); }
  static Extent extent(const Tensor& t, std::int64_t stored, std::int64_t groups);
  bool gathers() const { return split_ == Split::column && tensor_.splits_rows(); }
  // All rows of a tensor of which each rank has its own.
  Tensor gathered(Context& ctx, Scratch& scope, Tensor part) const;
  void backward_branch(Context& ctx, Tensor dx, Tensor dy, Tensor x, Slot& slot);
  void backward_column(Context& ctx, Tensor dx, Tensor dy, Tensor x, Slot& slot);
  void input_gradient(Context& ctx, Tensor dx, Tensor dy);
  void bias_gradient(Context& ctx, Tensor dy);

  Parameter weight_, bias_;
  std::int64_t out_groups_, in_groups_;
  Split split_;
  TensorParallel tensor_;
  bool learns_;
};

// RMSNorm, or with a name for a bias LayerNorm, over the last dimension.
struct NormOptions {
  std::string gain, bias;  // logical names
  std::int64_t hidden = 0;
  double eps = 1e-5;
  Ownership owner;
};
class Norm final {
 public:
  Norm(const NormOptions& options, const TensorParallel& tensor);
  // Takes memory of the slot for the statistics of x, and remembers both; forward() fills them.
  NormStats keep(Slot& slot, Tensor x);
  void forward(Context& ctx, Tensor y, Tensor x, const NormStats& stats);
  // y of the forward once more, to the same bits: a backward makes it again rather than keep it.
  void again(Context& ctx, Tensor y, const Slot& slot);
  // dx = d_residual + norm'(dy); dy may be undefined where neither dx nor learns() wants it.
  void backward(Context& ctx, Tensor dx, Tensor dy, Tensor d_residual, Slot& slot);
  bool learns() const { return learns_ && gain_.grad.defined(); }
  void visit(const Visitor& visitor);

 private:
  bool centers() const { return !bias_.pieces.empty(); }

  Parameter gain_, bias_;
  float eps_;
  bool learns_;
};

}  // namespace offramp
