// A view of a matrix in memory that somebody else owns (an arena, a map). Cheap to copy; knows its type, shape and device.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/error.h"
#include "tensor/dtype.h"

namespace rorqual {

enum class Device { kCpu, kGpu };

// [rows, cols] with `stride` elements from row to row; the columns of a row are contiguous. A vector is one row. Rows and
// column ranges of E5M6 begin at even elements (its stride is even). Higher ranks are expressed by the caller: [tokens, heads,
// dim] is rows = tokens, cols = heads·dim.
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;
  Device device = Device::kCpu;

  Tensor() = default;
  Tensor(void* d, DType t, int64_t r, int64_t c) : Tensor(d, t, r, c, c) {}
  Tensor(void* d, DType t, int64_t r, int64_t c, int64_t s) : data(d), dtype(t), rows(r), cols(c), stride(s) {}

  explicit operator bool() const { return data != nullptr; }
  int64_t count() const { return rows * cols; }
  int64_t bytes() const { return bytes_of(dtype, count()); }  // of the elements, gaps between rows left out
  bool contiguous() const { return stride == cols || rows <= 1; }

  template <class T>
  T* ptr() const {
    CHECK(dtype == dtype_of<T>(), "tensor holds {}, asked for {}", dtype_name(dtype), dtype_name(dtype_of<T>()));
    return static_cast<T*>(data);
  }
  template <class T>
  T* row(int64_t r) const {
    return ptr<T>() + r * stride;
  }
  std::byte* raw_row(int64_t r) const { return static_cast<std::byte*>(data) + bytes_of(dtype, r * stride); }

  // Rows [begin, begin + count) and columns [begin, begin + count) as views.
  Tensor row_range(int64_t begin, int64_t n) const {
    CHECK(begin >= 0 && n >= 0 && begin + n <= rows, "rows {}+{} of {}", begin, n, rows);
    return {raw_row(begin), dtype, n, cols, stride};
  }
  Tensor col_range(int64_t begin, int64_t n) const {
    CHECK(begin >= 0 && n >= 0 && begin + n <= cols, "columns {}+{} of {}", begin, n, cols);
    return {static_cast<std::byte*>(data) + bytes_of(dtype, begin), dtype, rows, n, stride};
  }
};

}  // namespace rorqual
