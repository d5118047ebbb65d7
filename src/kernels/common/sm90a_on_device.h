// Test matrices in the memory of a GPU.
#pragma once

#include "hopper/test_support.h"
#include "kernels/common/matrix_for_tests.h"

namespace rorqual::testing {

// Elements of a dtype between rows, and before the first, that keep rows of `cols` at multiples of 16 bytes.
inline int64_t aligned_gap(DType dtype, int64_t cols) {
  const int64_t per_16 = 16 / size_of(dtype);
  return (per_16 - cols % per_16) % per_16 + per_16;
}

// A matrix's memory on the device, gaps between rows included, between margins that nobody may write: of ordinary values, for
// arithmetic leaves a NaN as it is.
class OnDevice {
 public:
  explicit OnDevice(const Matrix& m) : view_(m), buffer_(static_cast<size_t>(bytes() + 2 * kMargin)) {
    buffer_.fill(kMarginByte);
    if (bytes() > 0) buffer_.copy_from(view_.data, static_cast<size_t>(bytes()), kMargin);
    view_.data = buffer_.as<std::byte>() + kMargin;
  }
  operator Tensor() const { return view_; }
  const Tensor& tensor() const { return view_; }

  // What the device wrote, into a matrix of the same layout; a test failure if margins were written.
  void fetch(Matrix& m) const {
    const auto all = hopper::to_host<uint8_t>(buffer_);
    const auto untouched = [&](int64_t i) { return all[static_cast<size_t>(i)] == kMarginByte; };
    for (int64_t i = 0; i < kMargin; ++i)
      ASSERT_TRUE(untouched(i) && untouched(kMargin + bytes() + i)) << "byte " << i << " of the margins";
    if (bytes() > 0) std::memcpy(m.tensor().data, all.data() + kMargin, static_cast<size_t>(bytes()));
  }

 private:
  static constexpr int64_t kMargin = 256;
  static constexpr uint8_t kMarginByte = 0x3f;
  int64_t bytes() const { return bytes_of(view_.dtype, view_.rows * view_.stride); }

  Tensor view_;
  hopper::DeviceBuffer buffer_;
};

}  // namespace rorqual::testing
