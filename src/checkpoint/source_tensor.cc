#include "checkpoint/source_tensor.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace rorqual {
namespace {

constexpr int64_t kBandRows = 128, kBandBytes = 4 << 20;

// The source may lie at any address: other programs' safetensors files are not always aligned.
template <class From>
From value_at(const std::byte* from, int64_t i) {
  From value;
  std::memcpy(&value, from + i * static_cast<int64_t>(sizeof(From)), sizeof(From));
  return value;
}

template <class From>
void read_plain(const std::byte* from, int64_t begin, const Tensor& target) {
  for (int64_t r = 0; r < target.rows; ++r) {
    const std::byte* row = from + (begin + r) * target.cols * static_cast<int64_t>(sizeof(From));
    if (target.dtype == dtype_of<From>()) {
      if (target.cols > 0) std::memcpy(target.raw_row(r), row, static_cast<size_t>(target.cols) * sizeof(From));
      continue;
    }
    visit_float(target.dtype, [&](auto zero) {
      using To = decltype(zero);
      To* out = target.row<To>(r);
      for (int64_t i = 0; i < target.cols; ++i) out[i] = static_cast<To>(static_cast<compute_t<From>>(value_at<From>(row, i)));
    });
  }
}

// IEEE half precision; every value is one of FP32.
float half_value(uint16_t bits) {
  const uint32_t magnitude = bits & 0x7fffu, sign = (bits & 0x8000u) << 16;
  if (magnitude < 0x0400) return std::bit_cast<float>(std::bit_cast<uint32_t>(static_cast<float>(magnitude) * 0x1p-24f) | sign);
  const uint32_t rebias = magnitude < 0x7c00 ? 112u << 23 : 224u << 23;  // infinity and NaN stay what they are
  return std::bit_cast<float>(((magnitude << 13) + rebias) | sign);
}

void read_f16(const std::byte* from, int64_t begin, const Tensor& target) {
  visit_float(target.dtype, [&](auto zero) {
    using To = decltype(zero);
    for (int64_t r = 0; r < target.rows; ++r) {
      To* out = target.row<To>(r);
      for (int64_t i = 0; i < target.cols; ++i)
        out[i] = static_cast<To>(half_value(value_at<uint16_t>(from, (begin + r) * target.cols + i)));
    }
  });
}

const std::array<float, 256>& e4m3_values() {
  static const std::array<float, 256> values = [] {
    std::array<float, 256> v{};
    for (size_t code = 0; code < v.size(); ++code) v[code] = static_cast<float>(E4M3::from_bits(static_cast<uint8_t>(code)));
    return v;
  }();
  return values;
}

float scale_at(const SourceTensor& t, int64_t i) {
  const std::byte* data = t.scale_file->bytes(*t.scale).data();
  if (t.scale->dtype == "BF16") return static_cast<float>(value_at<Bf16>(data, i));
  return value_at<float>(data, i);
}

void read_fp8(const SourceTensor& t, int64_t begin, const Tensor& target) {
  const auto* codes = reinterpret_cast<const uint8_t*>(t.file->bytes(*t.entry).data());
  const std::array<float, 256>& values = e4m3_values();
  const int64_t groups = t.scale->shape.back();
  visit_float(target.dtype, [&](auto zero) {
    using To = decltype(zero);
    for (int64_t r = 0; r < target.rows; ++r) {
      To* out = target.row<To>(r);
      const uint8_t* in = codes + (begin + r) * target.cols;
      const int64_t scale_row = (begin + r) / t.block_rows * groups;
      for (int64_t g = 0; g < groups; ++g) {
        const float scale = scale_at(t, scale_row + g);
        for (int64_t i = g * t.block_cols; i < std::min((g + 1) * t.block_cols, target.cols); ++i)
          out[i] = static_cast<To>(values[in[i]] * scale);
      }
    }
  });
}

}  // namespace

int64_t SourceTensor::cols() const {
  return entry->shape.empty() ? 1 : entry->shape.back();
}
int64_t SourceTensor::rows() const {
  return cols() == 0 ? 0 : entry->count() / cols();
}

void check_readable(const SourceTensor& t) {
  const std::string& dtype = t.entry->dtype;
  if (dtype == "F64" || dtype == "F32" || dtype == "BF16" || dtype == "F16" || t.is_fp8()) return;
  fail("{}: tensor '{}' has dtype {}; F64, F32, BF16, F16 or FP8 with block scales is needed", t.where(), t.entry->name, dtype);
}

void read_rows(const SourceTensor& t, int64_t begin, const Tensor& target) {
  CHECK(target.cols == t.cols() && begin >= 0 && begin + target.rows <= t.rows(), "{}: rows {}+{} of {}", t.entry->name, begin,
        target.rows, t.rows());
  check_readable(t);
  if (t.is_fp8()) return read_fp8(t, begin, target);
  const std::byte* data = t.file->bytes(*t.entry).data();
  if (t.entry->dtype == "F64") return read_plain<double>(data, begin, target);
  if (t.entry->dtype == "F32") return read_plain<float>(data, begin, target);
  if (t.entry->dtype == "F16") return read_f16(data, begin, target);
  read_plain<Bf16>(data, begin, target);
}

void for_each_band(const SourceTensor& t, DType dtype, const std::function<void(int64_t, const Tensor&)>& body) {
  const int64_t row_bytes = std::max<int64_t>(1, t.cols() * size_of(dtype));
  const int64_t rows = std::max<int64_t>(1, kBandBytes / (row_bytes * kBandRows)) * kBandRows;
  std::vector<std::byte> buffer(static_cast<size_t>(std::min(rows, t.rows()) * row_bytes));
  for (int64_t begin = 0; begin < t.rows(); begin += rows) {
    const Tensor band(buffer.data(), dtype, std::min(rows, t.rows() - begin), t.cols());
    read_rows(t, begin, band);
    forget(t);
    body(begin, band);
  }
}

void forget(const SourceTensor& t) {
  t.file->forget(*t.entry);
  if (t.is_fp8()) t.scale_file->forget(*t.scale);
}

}  // namespace rorqual
