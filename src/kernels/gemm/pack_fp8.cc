// Weights to E4M3: blocks of 128×128 with a scale each, read once, their codes written to both copies.
#include "kernels/gemm/pack_fp8.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <vector>

#include "kernels/common/past_caches.h"
#include "kernels/gemm/block.h"
#include "kernels/gemm/quantise_pack.h"

namespace rorqual::gemm {
namespace {

constexpr uint32_t kMagnitude = 0x7fffffffu, kInfinity = 0x7f800000u;

int64_t round_up(int64_t x, int64_t to) {
  return (x + to - 1) / to * to;
}

// The block of a source at (row, col), in FP32: where it is, or copied to `wide`.
struct SourceBlock {
  const float* data;
  int64_t stride;
  int64_t rows, cols;
};
SourceBlock source_block(const Tensor& source, int64_t row, int64_t col, float* wide) {
  const int64_t rows = std::min(kScaleGroup, source.rows - row), cols = std::min(kScaleGroup, source.cols - col);
  if (source.dtype == DType::kF32) return {source.row<float>(row) + col, source.stride, rows, cols};
  visit_float(source.dtype, [&](auto zero) {
    using T = decltype(zero);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c) wide[r * kScaleGroup + c] = static_cast<float>(source.row<T>(row + r)[col + c]);
  });
  return {wide, kScaleGroup, rows, cols};
}

struct Job {
  const PackWeightArgs* args = nullptr;
  int64_t row_blocks = 0, col_blocks = 0;
  int64_t blocks() const { return row_blocks * col_blocks; }
  int64_t row(int64_t block) const { return block / col_blocks * kScaleGroup; }
  int64_t col(int64_t block) const { return block % col_blocks * kScaleGroup; }
};

// Blocks [begin, end) of a job.
struct Task {
  const Job* job = nullptr;
  int64_t begin = 0, end = 0;
};
constexpr int64_t kBlocksPerTask = 4;

std::vector<Task> tasks_of(const std::vector<Job>& jobs, bool whole_tensor_only) {
  std::vector<Task> tasks;
  for (const Job& job : jobs) {
    const Quantiser& q = job.args->quantiser;
    if (whole_tensor_only && (q.granularity != Granularity::kTensor || q.amax > 0)) continue;
    for (int64_t b = 0; b < job.blocks(); b += kBlocksPerTask)
      tasks.push_back({&job, b, std::min(b + kBlocksPerTask, job.blocks())});
  }
  return tasks;
}

// The codes and scales of one block, and what was seen.
void pack_block(const Job& job, int64_t block, const float* tensor_amax, bool past_caches, float* wide,
                QuantiseCounts& counts) {
  const PackWeightArgs& args = *job.args;
  const int64_t row = job.row(block), col = job.col(block);
  const SourceBlock source = source_block(args.source, row, col, wide);
  const QuantiseKernels kernels = quantise_kernels_of(allowed_isa());
  const uint32_t bits = kernels.amax(source.data, source.stride, source.rows, source.cols);
  const float amax = std::bit_cast<float>(bits);
  float scale = scale_of(amax, E4M3::kLargest, args.quantiser.rule);
  if (tensor_amax != nullptr && bits < kInfinity) scale = scale_of(*tensor_amax, E4M3::kLargest, args.quantiser.rule);

  PackBlock to{source.data, source.stride, source.rows, source.cols, nullptr, 0, nullptr, 0, nullptr, past_caches};
  if (args.source.dtype == DType::kF32 && block + 1 < job.blocks())
    to.next = args.source.row<float>(job.row(block + 1)) + job.col(block + 1);
  const auto place = [&](const PackedWeight& w, int64_t n, int64_t k, uint8_t*& data, int64_t& stride) {
    if (!w) return;
    stride = panel_elements(DType::kE4M3, w.k);
    data = static_cast<uint8_t*>(w.data) + n / 16 * stride + k * 16;
    w.scale[n / kScaleGroup * scale_groups(w.k) + k / kScaleGroup] = scale;
  };
  place(args.packed, row, col, to.packed, to.packed_stride);
  place(args.transposed, col, row, to.transposed, to.transposed_stride);
  const PackCounts pack = kernels.pack(to, scale, bits);

  QuantiseCounts seen{.values = source.rows * source.cols, .saturated = pack.saturated, .flushed = pack.flushed};
  seen.not_finite = bits >= kInfinity;
  if (!seen.not_finite) seen.amax = amax;
  if (!seen.not_finite && amax > 0 && scale == scale) seen.smallest_scale = seen.largest_scale = scale;
  counts.merge(seen);
}

}  // namespace

uint32_t block_amax_reference(const float* source, int64_t stride, int64_t rows, int64_t cols) {
  uint32_t largest = 0;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c)
      largest = std::max(largest, std::bit_cast<uint32_t>(source[r * stride + c]) & kMagnitude);
  return largest;
}

PackCounts quantise_pack_reference(const PackBlock& b, float scale, uint32_t) {
  PackCounts counts;
  const int64_t rows = round_up(b.rows, 16), cols = round_up(b.cols, 16);
  for (int64_t n = 0; n < rows; ++n) {
    for (int64_t k = 0; k < cols; ++k) {
      E4M3 code{};
      if (n < b.rows && k < b.cols && scale == scale) {
        const float x = scaled(b.source[n * b.stride + k], scale);
        code = E4M3(x);
        counts.saturated += std::fabs(x) > E4M3::kLargest;
        counts.flushed += b.source[n * b.stride + k] != 0 && (code.bits & 0x7f) == 0;
      }
      if (b.packed != nullptr && k < round_up(b.cols, 4))
        b.packed[n / 16 * b.packed_stride + panel_index<E4M3>(n % 16, k)] = code.bits;
      if (b.transposed != nullptr && n < round_up(b.rows, 4))
        b.transposed[k / 16 * b.transposed_stride + panel_index<E4M3>(k % 16, n)] = code.bits;
    }
  }
  return counts;
}

void pack_fp8(std::span<const PackWeightArgs* const> list, const Stream& stream) {
  std::vector<Job> jobs;
  for (const PackWeightArgs* args : list)
    jobs.push_back({args, scale_groups(args->source.rows), scale_groups(args->source.cols)});

  // One amax of a whole tensor needs a pass of its own.
  std::vector<std::atomic<uint32_t>> amax(jobs.size());
  const std::vector<Task> first = tasks_of(jobs, true);
  stream.parallel(static_cast<int64_t>(first.size()), [&](int64_t t) {
    const Task& task = first[static_cast<size_t>(t)];
    float wide[kScaleGroup * kScaleGroup];
    uint32_t largest = 0;
    for (int64_t b = task.begin; b < task.end; ++b) {
      const SourceBlock block = source_block(task.job->args->source, task.job->row(b), task.job->col(b), wide);
      largest = std::max(largest, quantise_kernels_of(allowed_isa()).amax(block.data, block.stride, block.rows, block.cols));
    }
    std::atomic<uint32_t>& shared = amax[static_cast<size_t>(task.job - jobs.data())];
    uint32_t now = shared.load(std::memory_order_relaxed);
    while (now < largest && !shared.compare_exchange_weak(now, largest, std::memory_order_relaxed)) {
    }
  });

  int64_t bytes = 0;
  for (const PackWeightArgs* args : list)
    for (const PackedWeight& w : {args->packed, args->transposed})
      if (w) bytes += PackedWeight::bytes(DType::kE4M3, w.n, w.k);
  const bool past_caches = bytes > kKeptInCaches;  // packed data is aligned, panels are whole lines
  const std::vector<Task> second = tasks_of(jobs, false);
  stream.parallel(static_cast<int64_t>(second.size()), [&](int64_t t) {
    const Task& task = second[static_cast<size_t>(t)];
    const Quantiser& q = task.job->args->quantiser;
    float whole = q.amax;
    if (!(whole > 0)) whole = std::bit_cast<float>(amax[static_cast<size_t>(task.job - jobs.data())].load());
    float wide[kScaleGroup * kScaleGroup];
    QuantiseCounts counts;
    for (int64_t b = task.begin; b < task.end; ++b)
      pack_block(*task.job, b, q.granularity == Granularity::kTensor ? &whole : nullptr, past_caches, wide, counts);
    order_stores_past_caches();
    if (q.statistics != nullptr) q.statistics->merge(counts);
  });
}

}  // namespace rorqual::gemm
