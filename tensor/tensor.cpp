#include "tensor/tensor.h"

#include "tensor/check.h"

namespace offramp {

const char* name_of(DType t) {
  switch (t) {
    case DType::none:
      return "none";
    case DType::f32:
      return "f32";
    case DType::f64:
      return "f64";
    case DType::i32:
      return "i32";
    case DType::bf16:
      return "bf16";
  }
  return "none";
}

std::string to_text(const Shape& shape) {
  return fmt::format("[{}]", fmt::join(shape.size.begin(), shape.size.begin() + shape.rank, ", "));
}

namespace {

std::array<std::int64_t, 4> row_major(const Shape& shape) {
  std::array<std::int64_t, 4> stride{};
  std::int64_t step = 1;
  for (int i = shape.rank - 1; i >= 0; --i) {
    stride[static_cast<std::size_t>(i)] = step;
    step *= shape[i];
  }
  return stride;
}

// A run of neighbouring dimensions that one stride can walk: `count` elements, the innermost step being `stride`.
struct Run {
  std::int64_t count, stride;
};

// The dimensions of t, innermost first, joined wherever memory allows.
std::array<Run, 5> runs_of(const Tensor& t) {
  std::array<Run, 5> runs;
  runs.fill({1, 1});
  std::size_t last = 0;
  for (int i = t.shape.rank - 1; i >= 0; --i) {
    const std::int64_t size = t.shape[i], stride = t.stride[static_cast<std::size_t>(i)];
    if (size == 1) continue;
    Run& run = runs[last];
    if (run.count == 1) {
      run = {size, stride};
    } else if (stride == run.count * run.stride) {
      run.count *= size;
    } else {
      runs[++last] = {size, stride};
    }
  }
  return runs;
}

}  // namespace

Tensor::Tensor(void* at, Shape sizes, DType type)
    : data(static_cast<std::byte*>(at)), dtype(type), shape(sizes), stride(row_major(sizes)) {}

bool Tensor::contiguous() const {
  const auto expected = row_major(shape);
  for (std::size_t i = 0; i < static_cast<std::size_t>(shape.rank); ++i) {
    if (shape.size[i] != 1 && stride[i] != expected[i]) return elements() == 0;
  }
  return true;
}

Tensor Tensor::narrow(int dim, std::int64_t begin, std::int64_t count) const {
  if (!defined()) return *this;
  OFFRAMP_CHECK(dim >= 0 && dim < shape.rank, "[narrow] dimension {} of {}", dim, to_text(shape));
  OFFRAMP_CHECK(begin >= 0 && count >= 0 && begin + count <= shape[dim], "[narrow] {} from {} on of dimension {} of {}", count, begin, dim,
                to_text(shape));
  const auto d = static_cast<std::size_t>(dim);
  Tensor part = *this;
  // Address arithmetic on integers: in plan mode `data` points at no object.
  part.data =
      reinterpret_cast<std::byte*>(reinterpret_cast<std::uintptr_t>(data) + static_cast<std::size_t>(begin * stride[d]) * size_of(dtype));
  part.shape.size[d] = count;
  return part;
}

Tensor Tensor::reshape(Shape to) const {
  if (!defined()) return *this;
  OFFRAMP_CHECK(to.elements() == elements(), "[reshape] {} has {} elements, {} has {}", to_text(shape), elements(), to_text(to),
                to.elements());
  Tensor view(data, to, dtype);
  if (contiguous()) return view;
  const auto runs = runs_of(*this);
  std::size_t run = 0;
  std::int64_t done = 1;  // elements of the present run that inner dimensions of `to` took
  for (int i = to.rank - 1; i >= 0; --i) {
    if (to[i] == 1) continue;
    if (done == runs[run].count) {
      ++run;
      done = 1;
    }
    OFFRAMP_CHECK(runs[run].count % (done * to[i]) == 0, "[reshape] strides of {} cannot express {}", to_text(shape), to_text(to));
    view.stride[static_cast<std::size_t>(i)] = runs[run].stride * done;
    done *= to[i];
  }
  return view;
}

template <>
float* Tensor::as<float>() const {
  OFFRAMP_CHECK(dtype == DType::f32, "[as] {} {} is not f32", name_of(dtype), to_text(shape));
  return reinterpret_cast<float*>(data);
}

template <>
double* Tensor::as<double>() const {
  OFFRAMP_CHECK(dtype == DType::f64, "[as] {} {} is not f64", name_of(dtype), to_text(shape));
  return reinterpret_cast<double*>(data);
}

template <>
std::int32_t* Tensor::as<std::int32_t>() const {
  OFFRAMP_CHECK(dtype == DType::i32, "[as] {} {} is not i32", name_of(dtype), to_text(shape));
  return reinterpret_cast<std::int32_t*>(data);
}

template <>
bf16* Tensor::as<bf16>() const {
  OFFRAMP_CHECK(dtype == DType::bf16, "[as] {} {} is not bf16", name_of(dtype), to_text(shape));
  return reinterpret_cast<bf16*>(data);
}

}  // namespace offramp
