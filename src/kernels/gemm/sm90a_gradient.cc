// Launching weight_gradient's kernel.
#include <algorithm>
#include <tuple>
#include <vector>

#include "hopper/runtime.h"
#include "hopper/tensor_map.h"
#include "kernels/gemm/sm90a.h"
#include "kernels/gemm/sm90a_gradient_job.h"

namespace rorqual {
namespace {

using gemm::GradientJob;
using gemm::kGradientTile;
using gemm::kMostGradientProblems;
using gemm::Share;

bool aligned(const void* p, size_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % bytes == 0;
}

// An operand [m, channels].
std::string refuse_operand(const char* name, const ScaledTensor& t) {
  if (t.dtype() != DType::kE4M3) return fmt::format("{} holds {}, not E4M3", name, dtype_name(t.dtype()));
  if (!t.is_transposed()) return fmt::format("{}'s tokens are not contiguous (Group::kColumnTransposed)", name);
  if (t.rows() == 0) return {};
  if (t.scales.dtype != DType::kF32 || t.scales.rows != scale_groups(t.rows()) || t.scales.cols != t.cols())
    return fmt::format("{}'s codes [{}, {}] need F32 scales [{}, {}], not {} [{}, {}]", name, t.rows(), t.cols(),
                       scale_groups(t.rows()), t.cols(), dtype_name(t.scales.dtype), t.scales.rows, t.scales.cols);
  if (!aligned(t.codes.data, 16)) return fmt::format("{}'s codes are not aligned to 16 bytes", name);
  if (t.codes.stride % 16 != 0)
    return fmt::format("{}'s channels are {} bytes apart, not a multiple of 16", name, t.codes.stride);
  if (!aligned(t.scales.data, 4)) return fmt::format("{}'s scales are not aligned to 4 bytes", name);
  return {};
}

std::string refuse(const WeightGradientProblem& p) {
  if (std::string reason = refuse_operand("A", p.a); !reason.empty()) return reason;
  if (std::string reason = refuse_operand("B", p.b); !reason.empty()) return reason;
  if (p.a.rows() != p.b.rows() || p.c.rows != p.a.cols() || p.c.cols != p.b.cols())
    return fmt::format("[{}, {}]ᵀ · [{}, {}] into [{}, {}]", p.a.rows(), p.a.cols(), p.b.rows(), p.b.cols(), p.c.rows,
                       p.c.cols);
  if (p.c.dtype != DType::kF32) return fmt::format("C holds {}, not F32", dtype_name(p.c.dtype));
  if (!p.c.contiguous()) return fmt::format("rows of C are {} elements apart, not {}", p.c.stride, p.c.cols);
  if (p.c.cols % 4 != 0) return fmt::format("rows of C of {} elements are not a multiple of 16 bytes", p.c.cols);
  if (!aligned(p.c.data, 16)) return "C is not aligned to 16 bytes";
  return {};
}

// Codes [channels, tokens] in boxes of 128 tokens; tokens behind the last one read as zero.
hopper::TensorMap map_codes(const ScaledTensor& t, bool shared) {
  return hopper::make_tensor_map({.data = t.codes.data,
                                  .element = hopper::Element::kU8,
                                  .columns = t.rows(),
                                  .rows = t.cols(),
                                  .row_bytes = t.codes.stride,
                                  .box_columns = static_cast<int32_t>(kScaleGroup),
                                  .box_rows = shared ? kGradientTile / 2 : kGradientTile,
                                  .swizzle = true});
}

hopper::TensorMap map_gradient(const Tensor& c) {
  return hopper::make_tensor_map({.data = c.data,
                                  .element = hopper::Element::kF32,
                                  .columns = c.cols,
                                  .rows = c.rows,
                                  .row_bytes = 4 * c.cols,
                                  .box_columns = gemm::kGradientOutColumns,
                                  .box_rows = gemm::kGradientOutRows,
                                  .swizzle = true});
}

gemm::GradientProblem problem_of(const WeightGradientProblem& p, Share share) {
  return {.a = map_codes(p.a, share == Share::kA),
          .b = map_codes(p.b, share == Share::kB),
          .c = map_gradient(p.c),
          .scale_a = p.a.scales.ptr<float>(),
          .scale_b = p.b.scales.ptr<float>(),
          .scale_a_stride = p.a.scales.stride,
          .scale_b_stride = p.b.scales.stride,
          .blocks = scale_groups(p.a.rows())};
}

using Problems = std::span<const WeightGradientProblem* const>;

// At most kMost problems of the same n and k.
template <int kMost>
void launch(Problems problems, const Stream& stream) {
  const int64_t n = problems[0]->c.rows, k = problems[0]->c.cols;
  const auto tiles = [](int64_t size) { return (size + kGradientTile - 1) / kGradientTile; };
  // Two blocks share an operand where no tile is left alone.
  const Share share = tiles(n) % 2 == 0 ? Share::kB : tiles(k) % 2 == 0 ? Share::kA : Share::kNothing;
  GradientJob<kMost> job{};
  job.problems = static_cast<int32_t>(problems.size());
  job.n = static_cast<int32_t>(n);
  job.k = static_cast<int32_t>(k);
  for (size_t i = 0; i < problems.size(); ++i) job.problem[i] = problem_of(*problems[i], share);
  const int cluster = gemm::cluster_of(share);
  const int64_t blocks =
      std::min<int64_t>(tiles(n) * tiles(k) * job.problems, hopper::device_info().multiprocessors / cluster * cluster);
  gemm::launch_gradient<kMost>(job, share, static_cast<int>(blocks), stream.device_stream());
}

}  // namespace

std::string refuse_weight_gradient_sm90a(const WeightGradientArgs& args) {
  if (args.accumulator != Accumulator{}) return "another accumulator than the tensor cores' own";
  for (const WeightGradientProblem& p : args.problems)
    if (std::string reason = refuse(p); !reason.empty()) return reason;
  return {};
}

void weight_gradient_sm90a(const WeightGradientArgs& args, const Stream& stream) {
  const std::string reason = refuse_weight_gradient_sm90a(args);
  CHECK(reason.empty(), "weight_gradient_sm90a: {}", reason);
  std::vector<const WeightGradientProblem*> problems;
  for (const WeightGradientProblem& p : args.problems)
    if (p.a.rows() > 0 && p.c.count() > 0) problems.push_back(&p);
  // Of one shape together, the longest sums first, so that the last tiles are short ones.
  const auto before = [](const WeightGradientProblem* x, const WeightGradientProblem* y) {
    return std::tuple(x->c.rows, x->c.cols, y->a.rows()) < std::tuple(y->c.rows, y->c.cols, x->a.rows());
  };
  std::stable_sort(problems.begin(), problems.end(), before);
  for (size_t begin = 0, end; begin < problems.size(); begin = end) {
    const Tensor& c = problems[begin]->c;
    for (end = begin; end < problems.size() && end - begin < kMostGradientProblems; ++end)
      if (problems[end]->c.rows != c.rows || problems[end]->c.cols != c.cols) break;
    const Problems run = Problems(problems).subspan(begin, end - begin);
    if (run.size() == 1)
      launch<1>(run, stream);
    else
      launch<kMostGradientProblems>(run, stream);
  }
}

}  // namespace rorqual
