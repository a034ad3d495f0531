// Plain memory: sums, copies and their conversions, zeros, of dense and of strided tensors.
#include "registry.h"

namespace offramp::testing {
namespace {

using Index = std::size_t;

Case add_case(Shape shape, DType dtype, std::int64_t y_wider, std::int64_t x_wider) {
  return {.name = fmt::format("add {} {} wider by {} and {}", to_text(shape), name_of(dtype), y_wider, x_wider),
          .operands = {required(of_type(wider(updated("y", shape), y_wider), dtype)), of_type(wider(input("x", shape), x_wider), dtype)},
          .run = [](Context& c, const Tensors& t) { add(c, t["y"], t["x"]); },
          .reference =
              [](Values& v) {
                for (Index i = 0; i < v["y"].size(); ++i) v["y"][i] += v["x"][i];
              }};
}

Case copy_case(Shape shape, DType dtype, std::int64_t y_wider, std::int64_t x_wider) {
  const Fill whole = [](std::int64_t i) { return static_cast<double>(i * 3 - 5); };  // whole numbers: integers are copied too
  Operand x = of_type(wider(input("x", shape, whole), x_wider), dtype);
  return {.name = fmt::format("copy {} {} wider by {} and {}", to_text(shape), name_of(dtype), y_wider, x_wider),
          .operands = {required(of_type(wider(output("y", shape), y_wider), dtype)), x},
          .run = [](Context& c, const Tensors& t) { copy(c, t["y"], t["x"]); },
          .reference = [](Values& v) { v["y"] = v["x"]; }};
}

Case scale_case(Shape shape) {
  return {.name = fmt::format("scale {}", to_text(shape)),
          .operands = {required(updated("y", shape)), required(input("factor", {1}))},
          .run = [](Context& c, const Tensors& t) { scale(c, t["y"], t["factor"]); },
          .reference =
              [](Values& v) {
                for (double& y : v["y"]) y *= v["factor"][0];
              }};
}

Case fill_zero_case(Shape shape, DType dtype, std::int64_t y_wider) {
  return {.name = fmt::format("fill_zero {} {} wider by {}", to_text(shape), name_of(dtype), y_wider),
          .operands = {required(of_type(wider(output("y", shape), y_wider), dtype))},
          .run = [](Context& c, const Tensors& t) { fill_zero(c, t["y"]); },
          .reference = [](Values& v) { std::fill(v["y"].begin(), v["y"].end(), 0.0); }};
}

TEST(Memory, AddScaleCopyAndZero) {
  for (const Shape& shape : {Shape{1, 1}, Shape{3, 5}, Shape{2, 3, 2, 7}, Shape{200, 257}}) {
    check_case(scale_case(shape));
    for (const std::int64_t y_wider : {0, 3}) {
      for (const DType dtype : {DType::f32, DType::f64, DType::i32, DType::bf16}) {
        check_case(fill_zero_case(shape, dtype, y_wider));
        for (const std::int64_t x_wider : {0, 4}) {
          check_case(copy_case(shape, dtype, y_wider, x_wider));
          if (dtype != DType::i32) check_case(add_case(shape, dtype, y_wider, x_wider));
        }
      }
    }
  }
  for (const DType dtype : {DType::f32, DType::bf16}) check_case(add_case({100'000}, dtype, 0, 0));
}

TEST(Memory, CopiesConvert) {
  for (const std::int64_t y_wider : {0, 3}) {
    for (const std::int64_t x_wider : {0, 4}) {
      for (const char* narrow : {"y", "x"}) check_case(in_bf16(copy_case({200, 257}, DType::f32, y_wider, x_wider), {narrow}));
    }
  }
}

// f32 and bf16 are two widths of one thing; nothing else is.
TEST(Memory, RefusesOtherConversions) {
  EXPECT_THROW(run_case(in_bf16(copy_case({3, 5}, DType::f64, 0, 0), {"x"})), Error);
  EXPECT_THROW(run_case(in_bf16(copy_case({3, 5}, DType::i32, 0, 0), {"y"})), Error);
  EXPECT_THROW(run_case(in_bf16(add_case({3, 5}, DType::f32, 0, 0), {"x"})), Error);
}

TEST(Memory, CopiesAColumn) {
  Arena arena(Backing::host, 1 << 16);
  Context context = context_over(arena);
  const Tensor x = arena.tensor({3, 4}, DType::i32), y = arena.tensor({3}, DType::i32);
  for (int i = 0; i < 12; ++i) x.as<std::int32_t>()[i] = i;
  copy(context, y, x.narrow(1, 2, 1).reshape({3}));
  EXPECT_EQ(y.as<std::int32_t>()[0], 2);
  EXPECT_EQ(y.as<std::int32_t>()[1], 6);
  EXPECT_EQ(y.as<std::int32_t>()[2], 10);
}

TEST(Memory, RefusesShapesThatDiffer) {
  Arena arena(Backing::host, 1 << 16);
  Context context = context_over(arena);
  const Tensor x = arena.tensor({3, 4}, DType::f32), y = arena.tensor({4, 3}, DType::f32);
  EXPECT_THROW(copy(context, y, x), Error);
  EXPECT_THROW(add(context, y, x), Error);
  EXPECT_THROW(add(context, y, {}), Error);
  EXPECT_THROW(fill_zero(context, {}), Error);
}

}  // namespace
}  // namespace offramp::testing
