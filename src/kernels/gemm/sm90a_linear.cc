// Launching linear's FP8 kernel.
#include <algorithm>
#include <tuple>
#include <vector>

#include "hopper/runtime.h"
#include "hopper/tensor_map.h"
#include "kernels/gemm/sm90a.h"
#include "kernels/gemm/sm90a_linear_job.h"
#include "kernels/gemm/sm90a_linear_testing.h"

namespace rorqual {
namespace {

using gemm::kMostLinearProblems;
using gemm::LinearJob;
using gemm::LinearJobProblem;
using gemm::LinearOut;
using gemm::LinearTile;
using gemm::Share;

bool aligned(const void* p, size_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % bytes == 0;
}

std::string refuse_a(const LinearProblem& p) {
  const ScaledTensor& a = p.a;
  if (a.dtype() != DType::kE4M3) return fmt::format("A holds {}, not E4M3", dtype_name(a.dtype()));
  if (a.group != ScaledTensor::Group::kRow) return "A's scales are not of 128 of a row";
  if (a.rows() == 0) return {};
  if (a.scales.dtype != DType::kF32 || a.scales.rows != a.rows() || a.scales.cols != scale_groups(a.cols()))
    return fmt::format("A's codes [{}, {}] need F32 scales [{}, {}], not {} [{}, {}]", a.rows(), a.cols(), a.rows(),
                       scale_groups(a.cols()), dtype_name(a.scales.dtype), a.scales.rows, a.scales.cols);
  if (!aligned(a.codes.data, 16)) return "A's codes are not aligned to 16 bytes";
  if (a.codes.stride % 16 != 0) return fmt::format("rows of A are {} bytes apart, not a multiple of 16", a.codes.stride);
  return {};
}

std::string refuse_b(const LinearProblem& p) {
  const PackedWeight& b = p.b;
  if (b.dtype != DType::kE4M3) return fmt::format("B holds {}, not E4M3", dtype_name(b.dtype));
  if (b.layout != PackedWeight::Layout::kRows) return "B is packed in panels (Layout::kRows is wanted)";
  if (b.scale == nullptr) return "B has no scales";
  if (!aligned(b.data, 16)) return "B is not aligned to 16 bytes";
  if (b.k <= 0 || b.k % 16 != 0) return fmt::format("rows of B of {} codes are no multiple of 16", b.k);
  return {};
}

std::string refuse_c(const LinearProblem& p) {
  const Tensor& c = p.c;
  if (c.rows != p.a.rows() || c.cols != p.b.n || p.a.cols() != p.b.k)
    return fmt::format("[{}, {}] · [{}, {}]ᵀ into [{}, {}]", p.a.rows(), p.a.cols(), p.b.n, p.b.k, c.rows, c.cols);
  if (c.dtype != DType::kBF16 && c.dtype != DType::kF32) return fmt::format("C holds {}, not BF16 or F32", dtype_name(c.dtype));
  if (!aligned(c.data, 16)) return "C is not aligned to 16 bytes";
  if (c.stride * size_of(c.dtype) % 16 != 0)
    return fmt::format("rows of C are {} bytes apart, not a multiple of 16", c.stride * size_of(c.dtype));
  return {};
}

// Codes in boxes of 128 of K, half of the tile's rows where a cluster shares them.
hopper::TensorMap map_codes(const void* data, int64_t rows, int64_t k, int64_t stride, int32_t tile, bool shared) {
  return hopper::make_tensor_map({.data = data,
                                  .element = hopper::Element::kU8,
                                  .columns = k,
                                  .rows = rows,
                                  .row_bytes = stride,
                                  .box_columns = static_cast<int32_t>(kScaleGroup),
                                  .box_rows = shared ? tile / 2 : tile,
                                  .swizzle = true});
}

LinearOut out_of(const LinearArgs& args) {
  if (args.problems.front().c.dtype == DType::kBF16) return LinearOut::kBF16;
  return args.accumulate ? LinearOut::kAddF32 : LinearOut::kF32;
}

LinearJobProblem problem_of(const LinearProblem& p, const LinearTile& tile, LinearOut out, bool accumulate) {
  const bool bf16 = out == LinearOut::kBF16;
  const int64_t size = size_of(p.c.dtype);
  return {.a = map_codes(p.a.codes.data, p.a.rows(), p.b.k, p.a.codes.stride, tile.rows, tile.share == Share::kA),
          .b = map_codes(p.b.data, p.b.n, p.b.k, p.b.k, tile.columns, tile.share == Share::kB),
          .c = hopper::make_tensor_map({.data = p.c.data,
                                        .element = bf16 ? hopper::Element::kBF16 : hopper::Element::kF32,
                                        .columns = p.c.cols,
                                        .rows = p.c.rows,
                                        .row_bytes = p.c.stride * size,
                                        .box_columns = gemm::out_columns(tile.columns, out),
                                        .box_rows = 16,
                                        .swizzle = gemm::out_swizzled(tile.columns, out)}),
          .scale_a = p.a.scales.ptr<float>(),
          .scale_b = p.b.scale,
          .old_c = bf16 && accumulate ? static_cast<const uint16_t*>(p.c.data) : nullptr,
          .rows_in_use = p.rows_in_use,
          .scale_a_stride = p.a.scales.stride,
          .c_stride = p.c.stride,
          .m = static_cast<int32_t>(p.a.rows())};
}

using Problems = std::span<const LinearProblem* const>;

template <int kMost>
void launch(const LinearArgs& args, Problems problems, const LinearTile* forced, const Stream& stream) {
  const int64_t n = problems[0]->b.n, k = problems[0]->b.k;
  std::vector<int64_t> rows;
  for (const LinearProblem* p : problems) rows.push_back(p->a.rows());
  const bool counted = std::any_of(problems.begin(), problems.end(), [](const auto* p) { return p->rows_in_use != nullptr; });
  const int multiprocessors = hopper::device_info().multiprocessors;
  const LinearTile tile = forced != nullptr ? *forced : gemm::choose_linear_tile(rows, n, k, multiprocessors, counted);
  LinearJob<kMost> job{};
  job.problems = static_cast<int32_t>(problems.size());
  job.n = static_cast<int32_t>(n);
  job.k = static_cast<int32_t>(k);
  job.out = out_of(args);
  for (size_t i = 0; i < problems.size(); ++i) job.problem[i] = problem_of(*problems[i], tile, job.out, args.accumulate);
  const int blocks = gemm::linear_blocks(tile, rows, n, multiprocessors);
  CHECK(gemm::launch_linear(job, tile, blocks, stream.device_stream()), "no kernel of {}×{} tiles", tile.rows, tile.columns);
}

void run(const LinearArgs& args, const LinearTile* forced, const Stream& stream) {
  const std::string reason = refuse_linear_sm90a(args);
  CHECK(reason.empty(), "linear_sm90a: {}", reason);
  std::vector<const LinearProblem*> problems;
  for (const LinearProblem& p : args.problems)
    if (p.a.rows() > 0 && p.b.n > 0) problems.push_back(&p);
  const auto shape = [](const LinearProblem* p) { return std::tuple(p->b.n, p->b.k); };
  std::stable_sort(problems.begin(), problems.end(), [&](const auto* x, const auto* y) { return shape(x) < shape(y); });
  for (size_t begin = 0, end; begin < problems.size(); begin = end) {
    for (end = begin; end < problems.size() && end - begin < kMostLinearProblems; ++end)
      if (shape(problems[end]) != shape(problems[begin])) break;
    const Problems one_shape = Problems(problems).subspan(begin, end - begin);
    if (one_shape.size() == 1)
      launch<1>(args, one_shape, forced, stream);
    else
      launch<kMostLinearProblems>(args, one_shape, forced, stream);
  }
}

}  // namespace

std::string refuse_linear_sm90a(const LinearArgs& args) {
  if (args.accumulator != Accumulator{}) return "another accumulator than the tensor cores' own";
  for (const LinearProblem& p : args.problems) {
    if (p.c.dtype != args.problems.front().c.dtype) return "problems with C of different types";
    for (const auto refuse : {refuse_a, refuse_b, refuse_c})
      if (std::string reason = refuse(p); !reason.empty()) return reason;
  }
  return {};
}

void linear_sm90a(const LinearArgs& args, const Stream& stream) {
  run(args, nullptr, stream);
}

namespace gemm {
void linear_with_tile(const LinearArgs& args, const LinearTile& tile, const Stream& stream) {
  run(args, &tile, stream);
}
}  // namespace gemm

}  // namespace rorqual
