// Tensor: a typed, strided view of memory that somebody else owns (an Arena, a slab, a file mapping). Passed by value.
//
// An *undefined* tensor (default constructed) is how absence is said everywhere: an undefined input has no effect, an
// undefined output is not computed. That one rule carries missing biases, frozen weights (no dw), a first stage (no dx),
// evaluation (no gradients at all). `data` never says whether a tensor is defined: in plan mode it is an address that
// faults when touched.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "tensor/bf16.h"

namespace offramp {

enum class DType : std::uint8_t { none, f32, f64, i32, bf16 };
constexpr std::size_t size_of(DType t) { return t == DType::f64 ? 8 : t == DType::bf16 ? 2 : t == DType::none ? 0 : 4; }
const char* name_of(DType t);

// Up to four dimensions, slowest first.
struct Shape {
  int rank = 0;
  std::array<std::int64_t, 4> size{};

  constexpr Shape() = default;
  constexpr Shape(std::initializer_list<std::int64_t> sizes) {
    if (sizes.size() > size.size()) throw std::length_error("a shape has at most four dimensions");
    for (auto s : sizes) size[static_cast<std::size_t>(rank++)] = s;
  }
  constexpr std::int64_t operator[](int i) const { return size[static_cast<std::size_t>(i)]; }
  constexpr std::int64_t elements() const {
    std::int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= size[static_cast<std::size_t>(i)];
    return n;
  }
  bool operator==(const Shape&) const = default;
};
std::string to_text(const Shape& shape);  // "[128, 256]"

struct Tensor {
  std::byte* data = nullptr;
  DType dtype = DType::none;
  Shape shape;
  std::array<std::int64_t, 4> stride{};  // in elements

  Tensor() = default;
  Tensor(void* data, Shape shape, DType dtype);  // contiguous, row-major

  bool defined() const { return dtype != DType::none; }
  bool contiguous() const;
  std::int64_t elements() const { return shape.elements(); }
  std::size_t bytes() const { return static_cast<std::size_t>(elements()) * size_of(dtype); }

  // Rows begin..begin+count of dimension `dim`: a view. An undefined tensor stays undefined.
  Tensor narrow(int dim, std::int64_t begin, std::int64_t count) const;
  // The same elements under another shape; throws where strides cannot express it. An undefined tensor stays undefined.
  Tensor reshape(Shape to) const;

  // Typed access for code that runs on the host. Throws on another element type.
  template <class T>
  T* as() const;
};

template <> float* Tensor::as<float>() const;
template <> double* Tensor::as<double>() const;
template <> std::int32_t* Tensor::as<std::int32_t>() const;
template <> bf16* Tensor::as<bf16>() const;

}  // namespace offramp
