// The scalar truth of quantising, by the conversions of numerics/fp8.h.
#include <algorithm>
#include <array>
#include <bit>

#include "kernels/common/quantise_kernels.h"

namespace rorqual {
namespace {

constexpr uint32_t kInfinity = 0x7f800000u;

uint32_t magnitude_bits(float x) {
  return std::bit_cast<uint32_t>(x) & 0x7fffffffu;
}

// Calls body with an element of the coded type.
template <class Body>
decltype(auto) visit_code(DType type, Body&& body) {
  switch (type) {
    case DType::kE4M3:
      return body(E4M3{});
    case DType::kE5M2:
      return body(E5M2{});
    case DType::kE5M6:
      return body(E5M6{});
    default:
      CHECK(false, "no coded type: {}", dtype_name(type));
  }
}

template <class Code>
Code read(const void* row, int64_t i) {
  if constexpr (std::is_same_v<Code, E5M6>)
    return E5M6::read(static_cast<const uint8_t*>(row), i);
  else
    return static_cast<const Code*>(row)[i];
}
template <class Code>
void write(uint8_t* row, int64_t i, Code code) {
  if constexpr (std::is_same_v<Code, E5M6>)
    code.write(row, i);
  else
    row[i] = code.bits;
}
template <class Code>
bool is_zero(Code code) {
  constexpr uint32_t kMagnitude = std::is_same_v<Code, E5M6> ? 0x7ff : 0x7f;
  return (code.bits & kMagnitude) == 0;
}

// The scale, and what one value of its group adds to the counts.
struct GroupScale {
  float scale = 1;
  float limit = 0;
  bool finite = true;
  GroupScale(uint32_t own, uint32_t used, float largest, ScaleRule rule) {
    const float amax = std::bit_cast<float>(used);
    scale = scale_of(own >= kInfinity ? std::bit_cast<float>(kInfinity) : amax, largest, rule);
    limit = saturation_limit(amax, scale, largest, rule);
    finite = own < kInfinity && used < kInfinity;
  }
  void count(uint32_t own, int64_t values, QuantiseCounts& counts) const {
    counts.values += values;
    if (!finite) {
      counts.not_finite = true;
      return;
    }
    counts.amax = std::max(counts.amax, std::bit_cast<float>(own));
    if (own == 0) return;
    counts.largest_scale = std::max(counts.largest_scale, scale);
    counts.smallest_scale = counts.smallest_scale == 0 ? scale : std::min(counts.smallest_scale, scale);
  }
};

template <class Code>
Code encode(float x, const GroupScale& group, QuantiseCounts* counts) {
  if (!group.finite) return Code{};
  const Code code(scaled(x, group.scale));
  if (counts != nullptr) {
    counts->saturated += fp8::magnitude_of(x) > group.limit ? 1 : 0;
    counts->flushed += x != 0 && is_zero(code) ? 1 : 0;
  }
  return code;
}

void row_amax(const void* x, DType x_type, int64_t n, uint32_t* amax) {
  visit_float(x_type, [&](auto zero) {
    const auto* values = static_cast<const decltype(zero)*>(x);
    for (int64_t i = 0; i < n; ++i) {
      uint32_t& group = amax[i / kScaleGroup];
      group = std::max(group, magnitude_bits(static_cast<float>(values[i])));
    }
  });
}

template <class X, class Code>
void quantise_row_of(const QuantiseRow& row) {
  const X* x = static_cast<const X*>(row.x);
  for (int64_t begin = 0; begin < row.n; begin += kScaleGroup) {
    const int64_t g = begin / kScaleGroup, end = std::min(row.n, begin + kScaleGroup);
    uint32_t own = 0;
    row_amax(x + begin, dtype_of<X>(), end - begin, &own);
    const GroupScale group(own, row.amax != nullptr ? row.amax[g] : own, Code::kLargest, row.rule);
    row.scales[g] = group.scale;
    if (row.counts != nullptr) group.count(own, end - begin, *row.counts);
    for (int64_t i = begin; i < end; ++i) write(row.codes, i, encode<Code>(static_cast<float>(x[i]), group, row.counts));
  }
  if (row.n % 2 == 1) {
    if constexpr (std::is_same_v<Code, E5M6>) write(row.codes, row.n, Code{});
  }
}

void quantise_row(const QuantiseRow& row) {
  visit_float(row.x_type,
              [&](auto x) { visit_code(row.type, [&](auto code) { quantise_row_of<decltype(x), decltype(code)>(row); }); });
}

void dequantise_row(const DequantiseRow& row) {
  visit_code(row.type, [&](auto code) {
    visit_float(row.y_type, [&](auto zero) {
      using Y = decltype(zero);
      for (int64_t i = 0; i < row.n; ++i)
        static_cast<Y*>(row.y)[i] =
            static_cast<Y>(static_cast<float>(read<decltype(code)>(row.codes, i)) * row.scales[i / kScaleGroup]);
    });
  });
}

// Row r of a block in FP32.
void block_row(const ColumnBlock& block, int64_t r, float* y) {
  const std::byte* x = block.x + r * block.x_stride;
  if (block.x_scales == nullptr)
    return visit_float(block.x_type, [&](auto zero) {
      for (int64_t c = 0; c < block.cols; ++c) y[c] = static_cast<float>(reinterpret_cast<const decltype(zero)*>(x)[c]);
    });
  dequantise_row({.codes = x,
                  .type = block.x_type,
                  .scales = block.x_scales + r * block.x_scales_stride,
                  .n = block.cols,
                  .y = y,
                  .y_type = DType::kF32});
}

void column_amax(const ColumnBlock& block, uint32_t* own) {
  std::fill(own, own + block.cols, 0u);
  std::array<float, kLargestStrip> x;
  for (int64_t r = 0; r < block.rows; ++r) {
    block_row(block, r, x.data());
    for (int64_t c = 0; c < block.cols; ++c) own[c] = std::max(own[c], magnitude_bits(x[static_cast<size_t>(c)]));
  }
}

void columns(const ColumnBlock& block, const uint32_t* own, const uint32_t* used) {
  visit_code(block.type, [&](auto zero) {
    using Code = decltype(zero);
    for (int64_t c = 0; c < block.cols; ++c) {
      const GroupScale group(own[c], used[c], Code::kLargest, block.rule);
      block.scales[c] = group.scale;
      if (block.counts != nullptr) group.count(own[c], block.rows, *block.counts);
    }
    std::array<float, kLargestStrip> x;
    for (int64_t r = 0; r < block.rows; ++r) {
      block_row(block, r, x.data());
      for (int64_t c = 0; c < block.cols; ++c) {
        const GroupScale group(own[c], used[c], Code::kLargest, block.rule);
        write(block.codes + r * block.codes_stride, c, encode<Code>(x[static_cast<size_t>(c)], group, block.counts));
      }
    }
  });
}

}  // namespace

const QuantiseKernels kQuantiseReference = {row_amax, quantise_row, dequantise_row, column_amax, columns};

}  // namespace rorqual
