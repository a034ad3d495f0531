// The parts that units are written with: concrete classes, forward and backward side by side.
#pragma once
#include "models/module.h"

namespace offramp {

// y = x w^T, w [out, in].
class Linear final : public WeightGradient {
 public:
  Linear(Shape shape, Init init, std::vector<Piece> pieces, Writer writer = Writer::unit, double lr_scale = 1);
  void forward(Context& ctx, Tensor y, Tensor x, Slot& slot, Tensor residual = {});  // y = x w^T + residual; remembers x
  void backward(Context& ctx, Tensor dx, Tensor dy, Slot& slot);                     // dx =; the weight gradient +=
  void weight_gradient(Context& ctx, Tensor dy, Tensor x) override;
  void visit(const Visitor& visitor) { visitor(weight_); }
  std::int64_t out() const { return weight_.shape[0]; }

 private:
  Parameter weight_;
};

// RMSNorm over the last dimension.
class Norm final {
 public:
  // learns false: the gain gets no gradient.
  Norm(std::string name, std::int64_t hidden, double eps, Writer writer = Writer::unit, double lr_scale = 1, bool learns = true);
  void forward(Context& ctx, Tensor y, Tensor x, Slot& slot);                        // remembers x and 1/rms
  void backward(Context& ctx, Tensor dx, Tensor dy, Tensor d_residual, Slot& slot);  // dx = d_residual + norm'(dy)
  void visit(const Visitor& visitor) { visitor(gain_); }

 private:
  Parameter gain_;
  float eps_;
  bool learns_;
};

}  // namespace offramp
