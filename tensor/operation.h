// What every operation begins with: Expect checks its operands, Operation counts it in plan mode; where it runs, messages progress
// first, and it is timed if the context has a profile. One Operation lives as long as the kernel runs:
//
//   const Expect expect("rms_norm");
//   expect.rank(x, "x", 2);
//   const Operation op(context, "rms_norm", 4 * count_of(x), {y, rstd, x, gain});
//   if (op.planned()) return;
//   cpu::rms_norm(y, rstd, x, gain, eps);
#pragma once
#include <chrono>
#include <initializer_list>

#include "tensor/check.h"
#include "tensor/context.h"

namespace offramp {

// The checks of one operation: what a tensor must be, or the operation's name and both sides of the disagreement.
class Expect {
 public:
  explicit Expect(const char* op) : op_(op) {}

  // A defined tensor of that many dimensions; its sizes become the others' measure.
  void rank(const Tensor& t, const char* name, int rank) const {
    OFFRAMP_CHECK(t.defined(), "[{}] {} is undefined", op_, name);
    OFFRAMP_CHECK(t.shape.rank == rank, "[{}] {} is {}, wanted {} dimensions", op_, name, to_text(t.shape), rank);
  }
  void tensor(const Tensor& t, const char* name, DType dtype, const Shape& shape) const {
    typed(t, name, dtype, shape);
    OFFRAMP_CHECK(t.contiguous(), "[{}] {} {} is strided, wanted contiguous", op_, name, to_text(shape));
  }
  // A matrix whose rows may be apart, as those of a narrow are.
  void rows(const Tensor& t, const char* name, DType dtype, const Shape& shape) const {
    typed(t, name, dtype, shape);
    OFFRAMP_CHECK(t.narrow(0, 0, shape[0] > 0).contiguous(), "[{}] {} {} has strided rows, wanted contiguous", op_, name, to_text(shape));
  }
  void f32(const Tensor& t, const char* name, const Shape& shape) const { tensor(t, name, DType::f32, shape); }
  void i32(const Tensor& t, const char* name, const Shape& shape) const { tensor(t, name, DType::i32, shape); }
  void optional(const Tensor& t, const char* name, DType dtype, const Shape& shape) const {
    if (t.defined()) tensor(t, name, dtype, shape);
  }
  // The type that an operation works in, which is that of this operand.
  DType working(const Tensor& t, const char* name) const {
    OFFRAMP_CHECK(t.dtype == DType::f32 || t.dtype == DType::bf16, "[{}] {} is {}, wanted f32 or bf16", op_, name, name_of(t.dtype));
    return t.dtype;
  }
  // Two strided tensors of one shape.
  void alike(const Tensor& y, const Tensor& x) const {
    OFFRAMP_CHECK(y.defined() && x.defined(), "[{}] {} is undefined", op_, y.defined() ? "x" : "y");
    OFFRAMP_CHECK(y.shape == x.shape, "[{}] y is {} {}, x is {} {}", op_, name_of(y.dtype), to_text(y.shape), name_of(x.dtype),
                  to_text(x.shape));
  }

 private:
  void typed(const Tensor& t, const char* name, DType dtype, const Shape& shape) const {
    OFFRAMP_CHECK(t.defined(), "[{}] {} is undefined, wanted {} {}", op_, name, name_of(dtype), to_text(shape));
    OFFRAMP_CHECK(t.dtype == dtype && t.shape == shape, "[{}] {} is {} {}, wanted {} {}", op_, name, name_of(t.dtype), to_text(t.shape),
                  name_of(dtype), to_text(shape));
  }
  const char* op_;
};

inline double count_of(const Tensor& t) { return static_cast<double>(t.elements()); }

inline Cost cost_of(double flops, std::initializer_list<Tensor> operands) {
  Cost cost{.flops = flops};
  for (const Tensor& t : operands) cost.bytes += t.defined() ? static_cast<double>(t.bytes()) : 0.0;
  return cost;
}

class Operation {
 public:
  Operation(Context& context, const char* name, Cost cost) : profile_(context.profile), planned_(context.planning()) {
    if (planned_) {
      context.meter->count(name, cost);
      return;
    }
    context.beat();
    if (profile_) begin(name, cost);
  }
  // Each operand is read or written once.
  Operation(Context& context, const char* name, double flops, std::initializer_list<Tensor> operands)
      : Operation(context, name, context.meter || context.profile ? cost_of(flops, operands) : Cost{}) {}
  ~Operation() {
    if (!entry_) return;
    entry_->seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;

  // There is nothing more to do: it was only counted.
  bool planned() const { return planned_; }

 private:
  void begin(const char* name, Cost cost) {
    entry_ = &profile_->operations[name];
    ++entry_->calls;
    entry_->cost += cost;
    begin_ = std::chrono::steady_clock::now();
  }

  Profile* profile_;
  bool planned_;
  Profile::Entry* entry_ = nullptr;
  std::chrono::steady_clock::time_point begin_;
};

}  // namespace offramp
