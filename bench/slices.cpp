// What matrix products of a slice of a wider weight cost, against those of a dense weight of its size: GFLOP/s of the dense one; times
// where the slice lies, and packed before every product. Of weight gradients: times where the slice lies.
//   OMP_NUM_THREADS=2 bench_slices
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>

#include "bench/time_of.h"
#include "tensor/cpu/products.h"
#include "tensor/ops.h"
#include "tensor/random.h"

namespace offramp {
namespace {

struct Sizes {
  std::int64_t n, h, o;  // of the slice: tokens, inputs, outputs
};

class Bench {
 public:
  Bench(const Sizes& sizes, DType type) : s_(sizes), type_(type) {}

  // `wider`: of the whole matrix's rows against the slice's.
  void print(double wider) {
    const auto pitch = static_cast<std::int64_t>(wider * static_cast<double>(s_.h));
    x_ = random({s_.n, s_.h}), y_ = random({s_.n, s_.o}), w_ = random({s_.o, pitch});
    const Tensor dw = arena_.tensor({s_.o, pitch}, DType::f32);
    const auto weight = [&](std::int64_t stride) {
      fill_zero(context_, dw);
      return time_of({s_.o, s_.h, s_.n, {s_.o, true, type_}, {s_.h, false, type_}, {stride}, {}, cpu::Add::itself},
                     {dw.data, y_.data, x_.data});
    };
    const double gradient = weight(s_.h), in_place = weight(pitch);
    fmt::print(
        "{:4} n {:4} h {:4} of {:4} o {:4}   forward {}   dx {}   dw {:6.1f}: {:4.2f}\n", name_of(type_), s_.n, s_.h, pitch, s_.o,
        of_weight({s_.n, s_.o, s_.h, {s_.h, false, type_}, {pitch, true, type_}, {s_.o, false, type_}}, {y_.data, x_.data, w_.data}),
        of_weight({s_.n, s_.h, s_.o, {s_.o, false, type_}, {pitch, false, type_}, {s_.h, false, type_}}, {x_.data, y_.data, w_.data}),
        speed(gradient), in_place / gradient);
  }

 private:
  double speed(double time) const { return 2e-9 * static_cast<double>(s_.n * s_.h * s_.o) / time; }
  double time_of(const cpu::Product& p, const cpu::ProductData& data) {
    Scratch scope(context_);
    float* workspace = scope.tensor({cpu::product_scratch(p)}, DType::f32).as<float>();
    return offramp::time_of([&] { cpu::product(p, data, workspace); }, 0.1);
  }
  // "speed with a dense weight: time where it lies, time packed", both against the dense one's.
  std::string of_weight(const cpu::Product& p, const cpu::ProductData& data) {
    cpu::Product narrow = p;
    narrow.b.stride = s_.h;
    const double dense = time_of(narrow, data), in_place = time_of(p, data);
    Scratch scope(context_);
    float* workspace = scope.tensor({cpu::packed_scratch(p)}, DType::f32).as<float>();
    const double packed = offramp::time_of([&] { cpu::packed(p, data, workspace); }, 0.1);
    return fmt::format("{:6.1f}: {:4.2f}, {:4.2f}", speed(dense), in_place / dense, packed / dense);
  }
  Tensor random(Shape shape) {
    const Tensor t = arena_.tensor(shape, type_);
    for (std::int64_t i = 0; i < t.elements(); ++i) {
      const float value = uniform({}, static_cast<std::uint64_t>(i)) - 0.5f;
      if (type_ == DType::bf16)
        t.as<bf16>()[i] = bf16(value);
      else
        t.as<float>()[i] = value;
    }
    return t;
  }

  Sizes s_;
  DType type_;
  Tensor x_, y_, w_;
  Arena arena_{Backing::host, std::size_t{512} << 20}, scratch_{Backing::host, std::size_t{256} << 20};
  Context context_{.scratch = &scratch_};
};

}  // namespace
}  // namespace offramp

int main() {
  using namespace offramp;
  fmt::print("{} threads\n", omp_get_max_threads());
  for (const DType type : {DType::f32, DType::bf16})
    for (const double wider : {4.0 / 3, 2.0, 4.0})
      for (const std::int64_t n : {64, 128, 512, 2048})
        for (const Sizes& s :
             {Sizes{n, 172, 256}, {n, 256, 256}, {n, 512, 512}, {n, 1024, 1024}, {n, 256, 2048}, {n, 2048, 512}, {n, 512, 8192}})
          if (s.n * s.o * s.h <= (std::int64_t{1} << 32)) Bench(s, type).print(wider);
}
