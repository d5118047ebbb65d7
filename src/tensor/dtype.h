// Element types of tensors.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "numerics/bf16.h"
#include "numerics/fp8.h"

namespace rorqual {

enum class DType { kF64, kF32, kBF16, kI32, kI64, kU8, kE4M3, kE5M2, kE5M6 };

// Of one element. E5M6 has none: two values share three bytes (bytes_of).
constexpr int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return 8;
    case DType::kF32:
      return 4;
    case DType::kBF16:
      return 2;
    case DType::kI32:
      return 4;
    case DType::kI64:
      return 8;
    case DType::kU8:
    case DType::kE4M3:
    case DType::kE5M2:
      return 1;
    case DType::kE5M6:
      break;
  }
  CHECK(false, "an element of this dtype is no whole number of bytes");
}
// Of `count` elements; of an even count for E5M6.
constexpr int64_t bytes_of(DType dtype, int64_t count) {
  return dtype == DType::kE5M6 ? count / 2 * 3 : count * size_of(dtype);
}

// The names that safetensors uses: "F64", "F32", "BF16", "I32", "I64", "U8", "F8_E4M3", "F8_E5M2"; and "E5M6", which no file
// holds.
std::string_view dtype_name(DType dtype);

template <class T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<double>() {
  return DType::kF64;
}
template <>
constexpr DType dtype_of<float>() {
  return DType::kF32;
}
template <>
constexpr DType dtype_of<Bf16>() {
  return DType::kBF16;
}
template <>
constexpr DType dtype_of<int32_t>() {
  return DType::kI32;
}
template <>
constexpr DType dtype_of<int64_t>() {
  return DType::kI64;
}
template <>
constexpr DType dtype_of<uint8_t>() {
  return DType::kU8;
}
template <>
constexpr DType dtype_of<E4M3>() {
  return DType::kE4M3;
}
template <>
constexpr DType dtype_of<E5M2>() {
  return DType::kE5M2;
}

// Calls body with a value-initialised element of the floating-point dtype: visit_float(t.dtype, [&](auto zero) { using T =
// decltype(zero); … }).
template <class Body>
decltype(auto) visit_float(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::kF64:
      return body(double{});
    case DType::kF32:
      return body(float{});
    case DType::kBF16:
      return body(Bf16{});
    default:
      CHECK(false, "not a floating-point dtype: {}", dtype_name(dtype));
  }
}

// The type in which a kernel of the scalar truth computes on elements of type T: double for double, else float.
template <class T>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};
template <class T>
using compute_t = typename ComputeType<T>::type;

}  // namespace rorqual
