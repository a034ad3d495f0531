#include <cstring>

#include "tensor/cpu/element.h"
#include "tensor/cpu/kernels.h"

namespace offramp::cpu {

void embedding(Tensor y, Tensor w, Tensor ids, std::int64_t first) {
  const std::int64_t n = y.shape[0], h = y.shape[1], rows = w.shape[0];
  const auto bytes_of = [&](std::int64_t elements) { return elements * static_cast<std::int64_t>(size_of(y.dtype)); };
  const std::int64_t row_bytes = bytes_of(h), pitch = bytes_of(w.stride[0]);
  const std::int32_t* id = ids.as<std::int32_t>();
#pragma omp parallel for if (n * h > kParallelElements)
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t row = id[i] - first;
    if (row >= 0 && row < rows) {
      std::memcpy(y.data + i * row_bytes, w.data + row * pitch, static_cast<std::size_t>(row_bytes));
    } else {
      std::memset(y.data + i * row_bytes, 0, static_cast<std::size_t>(row_bytes));
    }
  }
}

// Threads share the columns, so that each sum runs in token order.
void embedding_backward(Tensor dw, Tensor dy, Tensor ids, std::int64_t first) {
  const std::int64_t n = dy.shape[0], h = dy.shape[1], rows = dw.shape[0], pitch = dw.stride[0];
  float* dws = dw.as<float>();
  const std::int32_t* id = ids.as<std::int32_t>();
  constexpr std::int64_t kColumns = 128;
  for_type(dy.dtype, [&]<class A>(A) {
    const A* dys = dy.as<A>();
#pragma omp parallel for if (n * h > kParallelElements)
    for (std::int64_t begin = 0; begin < h; begin += kColumns) {
      const std::int64_t end = begin + kColumns < h ? begin + kColumns : h;
      for (std::int64_t i = 0; i < n; ++i) {
        const std::int64_t row = id[i] - first;
        if (row < 0 || row >= rows) continue;
#pragma omp simd
        for (std::int64_t j = begin; j < end; ++j) dws[row * pitch + j] += wide(dys[i * h + j]);
      }
    }
  });
}

}  // namespace offramp::cpu
