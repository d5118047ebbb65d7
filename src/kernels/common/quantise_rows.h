// How the rows of a quantising operation, fused or not, are cut into tasks, and where their scales come from.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <vector>

#include "base/threads.h"
#include "kernels/common/partition.h"
#include "kernels/common/past_caches.h"
#include "kernels/common/quantise_kernels.h"

namespace rorqual {

inline bool is_coded(DType type) {
  return type == DType::kE4M3 || type == DType::kE5M2 || type == DType::kE5M6;
}
// Bytes of `n` elements of a row, a half pair of E5M6 included.
constexpr int64_t row_bytes(DType dtype, int64_t n) {
  return dtype == DType::kE5M6 ? (n + 1) / 2 * 3 : bytes_of(dtype, n);
}

// A coded matrix with scales 1×128.
inline void check_rows_coded(const ScaledTensor& y) {
  CHECK(is_coded(y.dtype()), "{} has no scales", dtype_name(y.dtype()));
  CHECK(y.group == ScaledTensor::Group::kRow, "groups of a column");
  CHECK(y.rows() == 0 || y.cols() == 0 ||
            (y.scales && y.scales.rows == y.rows() && y.scales.cols == scale_groups(y.cols()) && y.scales.dtype == DType::kF32),
        "scales [{}, {}] for [{}, {}]", y.scales.rows, y.scales.cols, y.rows(), y.cols());
  CHECK(y.dtype() != DType::kE5M6 || y.rows() <= 1 || y.codes.stride % 2 == 0, "rows of E5M6 {} apart", y.codes.stride);
}

struct Nothing {
  void operator()(int64_t) const {}
};
// What a task of quantise_rows works with: where the values come from and where they go.
template <class Values, class Done>
struct RowTask {
  static constexpr bool kReadsAgain = !std::is_same_v<Done, Nothing>;
  Values values;   // values(t, begin, n): a pointer to elements [begin, begin + n) of row t, valid until the next call
  ScaledTensor y;  // rows of the whole call; stride 0 if every row goes to the same place
  Done done;       // done(t): after row t of y was written
};
template <class Values, class Done = Nothing>
RowTask<Values, Done> row_task(Values values, const ScaledTensor& y, Done done = {}) {
  return {std::move(values), y, std::move(done)};
}

// Shape and source of a call.
struct QuantiseShape {
  int64_t rows = 0, cols = 0;
  DType source = DType::kF32;  // of what values() points to
  int64_t chunk = INT64_MAX;   // columns per call of values(), a multiple of 128
  int64_t bytes_per_row = 0;   // moved, for the cut into tasks
};

namespace quantise_detail {

template <class Task>
void row_amax(const QuantiseKernels& kernels, const QuantiseShape& shape, Task& task, int64_t t, uint32_t* amax) {
  for (int64_t begin = 0; begin < shape.cols; begin += std::min(shape.chunk, shape.cols)) {
    const int64_t n = std::min(shape.chunk, shape.cols - begin);
    kernels.row_amax(task.values(t, begin, n), shape.source, n, amax + begin / kScaleGroup);
  }
}

template <class Task>
void quantise_row(const QuantiseKernels& kernels, const QuantiseShape& shape, const Quantiser& quantiser, Task& task, int64_t t,
                  const uint32_t* amax, bool past_caches, QuantiseCounts* counts) {
  for (int64_t begin = 0; begin < shape.cols; begin += std::min(shape.chunk, shape.cols)) {
    const int64_t n = std::min(shape.chunk, shape.cols - begin), group = begin / kScaleGroup;
    kernels.row({.x = task.values(t, begin, n),
                 .x_type = shape.source,
                 .n = n,
                 .rule = quantiser.rule,
                 .type = task.y.dtype(),
                 .amax = amax == nullptr ? nullptr : amax + group,
                 .codes = reinterpret_cast<uint8_t*>(task.y.codes.raw_row(t)) + bytes_of(task.y.dtype(), begin),
                 .scales = task.y.scales.template row<float>(t) + group,
                 .counts = counts,
                 .past_caches = past_caches});
  }
  task.done(t);
}

// The largest magnitude of the call, in bits.
template <class MakeTask>
uint32_t amax_of_call(const QuantiseKernels& kernels, const Stream& stream, const QuantiseShape& shape,
                      const MakeTask& make_task) {
  std::atomic<uint32_t> largest{0};
  parallel_ranges(stream, shape.rows, shape.bytes_per_row, [&](int64_t begin, int64_t end) {
    auto task = make_task();
    std::vector<uint32_t> amax(static_cast<size_t>(scale_groups(shape.cols)), 0);
    for (int64_t t = begin; t < end; ++t) row_amax(kernels, shape, task, t, amax.data());
    const uint32_t mine = *std::max_element(amax.begin(), amax.end());
    uint32_t now = largest.load(std::memory_order_relaxed);
    while (now < mine && !largest.compare_exchange_weak(now, mine, std::memory_order_relaxed)) {
    }
  });
  return largest.load(std::memory_order_relaxed);
}

}  // namespace quantise_detail

// One call that quantises rows. make_task() is called once per range, by the thread that runs it, and gives a RowTask; where a
// scale spans rows, values() is asked twice for each.
template <class MakeTask>
class QuantiseCall {
 public:
  // Measures the tensor's amax where the granularity asks for it.
  QuantiseCall(const QuantiseKernels& kernels, const Stream& stream, const QuantiseShape& shape, const Quantiser& quantiser,
               const MakeTask& make_task)
      : kernels_(kernels), shape_(shape), quantiser_(quantiser), make_task_(make_task) {
    if (quantiser.granularity != Granularity::kTensor || shape.rows == 0 || shape.cols == 0) return;
    const uint32_t amax = quantiser.amax > 0 ? std::bit_cast<uint32_t>(quantiser.amax)
                                             : quantise_detail::amax_of_call(kernels, stream, shape, make_task);
    shared_.assign(static_cast<size_t>(scale_groups(shape.cols)), amax);
  }

  // Ranges begin at multiples of this many rows.
  int64_t granule() const { return of_blocks() ? kScaleGroup : 1; }

  void range(int64_t begin, int64_t end) const {
    auto task = make_task_();
    const bool past_caches = !task.kReadsAgain && goes_past_caches(task.y.codes);
    QuantiseCounts counts;
    QuantiseCounts* const counted = quantiser_.statistics != nullptr ? &counts : nullptr;
    std::vector<uint32_t> of_block;
    for (int64_t t = begin; t < end; ++t) {
      if (of_blocks() && t % kScaleGroup == 0) {
        of_block.assign(static_cast<size_t>(scale_groups(shape_.cols)), 0);
        for (int64_t r = t; r < std::min(end, t + kScaleGroup); ++r)
          quantise_detail::row_amax(kernels_, shape_, task, r, of_block.data());
      }
      const uint32_t* amax = of_blocks() ? of_block.data() : shared_.empty() ? nullptr : shared_.data();
      quantise_detail::quantise_row(kernels_, shape_, quantiser_, task, t, amax, past_caches, counted);
    }
    order_stores_past_caches();
    if (counted != nullptr) quantiser_.statistics->merge(counts);
  }

 private:
  bool of_blocks() const { return quantiser_.granularity == Granularity::kBlock; }

  const QuantiseKernels& kernels_;
  QuantiseShape shape_;
  Quantiser quantiser_;
  const MakeTask& make_task_;
  std::vector<uint32_t> shared_;  // amax by group, of the whole call
};

template <class MakeTask>
void quantise_rows(const QuantiseKernels& kernels, const Stream& stream, const QuantiseShape& shape, const Quantiser& quantiser,
                   const MakeTask& make_task) {
  if (shape.rows == 0 || shape.cols == 0) return;
  const QuantiseCall<MakeTask> call(kernels, stream, shape, quantiser, make_task);
  parallel_ranges(
      stream, shape.rows, shape.bytes_per_row, [&](int64_t begin, int64_t end) { call.range(begin, end); }, call.granule());
}

// ---- for kernels that compute and quantise a row's groups in registers

// A range of rows: at its end their counts are merged and their codes are where other threads see them.
class CountedRange {
 public:
  explicit CountedRange(const Quantiser& quantiser) : statistics_(quantiser.statistics) {}
  ~CountedRange() {
    order_stores_past_caches();
    if (statistics_ != nullptr) statistics_->merge(counts_);
  }
  CountedRange(const CountedRange&) = delete;
  CountedRange& operator=(const CountedRange&) = delete;
  QuantiseCounts* counts() { return statistics_ != nullptr ? &counts_ : nullptr; }

 private:
  QuantiseStatistics* statistics_;
  QuantiseCounts counts_;
};

// Columns [begin, begin + n) of row t of y as they are to be written, each group with its own scale; `begin` is a multiple of
// 128.
inline QuantiseRow quantise_row_of(const ScaledTensor& y, int64_t t, const Quantiser& quantiser, QuantiseCounts* counts,
                                   int64_t begin, int64_t n) {
  return {.n = n,
          .rule = quantiser.rule,
          .type = y.dtype(),
          .codes = reinterpret_cast<uint8_t*>(y.codes.raw_row(t)) + bytes_of(y.dtype(), begin),
          .scales = y.scales.row<float>(t) + begin / kScaleGroup,
          .counts = counts,
          .past_caches = goes_past_caches(y.codes)};
}
inline QuantiseRow quantise_row_of(const ScaledTensor& y, int64_t t, const Quantiser& quantiser, QuantiseCounts* counts) {
  return quantise_row_of(y, t, quantiser, counts, 0, y.cols());
}

// How far ahead of row t a kernel asks for what it will read, in bytes: whole rows, at least 4 KiB if there are as many.
inline int64_t bytes_to_rows_ahead(const Tensor& x, int64_t t) {
  const int64_t rows = 1 + 4096 / std::max<int64_t>(1, row_bytes(x.dtype, x.cols));
  return x.raw_row(std::min(t + rows, x.rows - 1)) - x.raw_row(t);
}

// Columns [begin, begin + n) of row t in FP32, decoded into `scratch` of n + 127 floats; where they begin.
inline const float* decoded(const QuantiseKernels& kernels, const ScaledTensor& x, int64_t t, int64_t begin, int64_t n,
                            float* scratch) {
  const int64_t inside = begin % kScaleGroup, first = begin - inside;
  kernels.dequantise({.codes = x.codes.raw_row(t) + bytes_of(x.dtype(), first),
                      .type = x.dtype(),
                      .scales = x.scales.row<float>(t) + first / kScaleGroup,
                      .n = inside + n,
                      .y = scratch,
                      .y_type = DType::kF32});
  return scratch + inside;
}

}  // namespace rorqual
