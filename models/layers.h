// The parts that units are written with: concrete classes, forward and backward side by side.
#pragma once
#include "models/module.h"

namespace offramp {

// Who a part's parameters belong to: what adds to their gradients, and how they are updated.
struct Ownership {
  Writer writer = Writer::unit;
  double lr_scale = 1;
  bool learns = true;  // false: they get no gradient from this part (a detached exit leaves its layer's norm alone)
};

// y = x w^T, w [out, in].
class Linear final : public WeightGradient {
 public:
  Linear(Shape shape, Init init, std::vector<Piece> pieces, Ownership owner = {});
  void forward(Context& ctx, Tensor y, Tensor x, Slot& slot, Tensor residual = {});  // y = x w^T + residual; remembers x
  void backward(Context& ctx, Tensor dx, Tensor dy, Slot& slot);                     // dx =; the weight gradient +=
  void weight_gradient(Context& ctx, Tensor dy, Tensor x) override;
  void visit(const Visitor& visitor) { visitor(weight_); }
  std::int64_t out() const { return weight_.shape[0]; }

 private:
  Parameter weight_;
  bool learns_;
};

// RMSNorm over the last dimension.
class Norm final {
 public:
  Norm(std::string name, std::int64_t hidden, double eps, Ownership owner = {});
  void forward(Context& ctx, Tensor y, Tensor x, Slot& slot);  // remembers x and 1/rms
  // dx = d_residual + norm'(dy); dy may be undefined where neither dx nor learns() wants it.
  void backward(Context& ctx, Tensor dx, Tensor dy, Tensor d_residual, Slot& slot);
  bool learns() const { return learns_ && gain_.grad.defined(); }
  void visit(const Visitor& visitor) { visitor(gain_); }

 private:
  Parameter gain_;
  float eps_;
  bool learns_;
};

}  // namespace offramp
