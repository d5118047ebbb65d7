// The tables of kernels and the parallel loop over blocks.
#include <vector>

#include "kernels/gemm/check.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/kernels.h"
#include "kernels/gemm/partition.h"
#include "kernels/gemm/quantise_pack.h"

namespace rorqual {
namespace gemm {

PackPanel pack_panel_of(Isa isa) {
  return isa >= Isa::kAvx512 ? pack_panel_avx512 : nullptr;
}

QuantiseKernels quantise_kernels_of(Isa isa) {
  if (isa >= Isa::kAvx512) return {block_amax_avx512, quantise_pack_avx512};
  return {block_amax_reference, quantise_pack_reference};
}

PeakLoop peak_loop_of(Isa isa, DType operands) {
  if (operands == DType::kF64 || isa == Isa::kReference) return peak_reference;
  if (isa == Isa::kAvx2) return peak_avx2;
  return isa == Isa::kAmx && operands == DType::kBF16 ? peak_amx : peak_avx512;
}

}  // namespace gemm

namespace {

using gemm::BlockScales;
using gemm::GradientBlock;
using gemm::LinearBlock;

const std::byte* at(const Tensor& t, int64_t row, int64_t col) {
  return t.raw_row(row) + col * size_of(t.dtype);
}

BlockScales scales_of(const ScaledTensor& t, int64_t row, int64_t col) {
  return {static_cast<const float*>(t.scales.data) + row * t.scales.stride + col, t.scales.stride};
}

LinearBlock block_of(const LinearArgs& args, const LinearProblem& p, const GemmTask& t) {
  const Tensor c = p.c.row_range(t.row_begin, t.row_end - t.row_begin).col_range(t.col_begin, t.col_end - t.col_begin);
  const int64_t panel_stride = gemm::panel_elements(p.b.dtype, p.b.k);
  const auto* b = static_cast<const std::byte*>(p.b.data) + t.col_begin / 16 * panel_stride * size_of(p.b.dtype);
  return {.a = at(p.a.codes, t.row_begin, 0),
          .a_stride = p.a.codes.stride,
          .b = b,
          .panel_stride = panel_stride,
          .c = c.data,
          .c_stride = c.stride,
          .rows = c.rows,
          .cols = c.cols,
          .depth = p.b.k,
          .operands = p.a.dtype(),
          .out = c.dtype,
          .accumulate = args.accumulate,
          .a_scales = scales_of(p.a, t.row_begin, 0),
          .b_scales = {p.b.scale, scale_groups(p.b.k)},
          .col_begin = t.col_begin,
          .rule = args.scales,
          .accumulator = args.accumulator};
}

GradientBlock block_of(const WeightGradientArgs& args, const WeightGradientProblem& p, const GemmTask& t) {
  const Tensor c = p.c.row_range(t.row_begin, t.row_end - t.row_begin).col_range(t.col_begin, t.col_end - t.col_begin);
  return {.a = at(p.a.codes, 0, t.row_begin),
          .a_stride = p.a.codes.stride,
          .b = at(p.b.codes, 0, t.col_begin),
          .b_stride = p.b.codes.stride,
          .c = c.data,
          .c_stride = p.c.cols,
          .rows = c.rows,
          .cols = c.cols,
          .depth = p.a.rows(),
          .operands = p.a.dtype(),
          .a_scales = scales_of(p.a, 0, t.row_begin),
          .b_scales = scales_of(p.b, 0, t.col_begin),
          .rule = args.scales,
          .accumulator = args.accumulator};
}

// Cuts a call into blocks and computes each with `kernel`.
void run_blocks(const LinearArgs& args, const Stream& stream, const GemmTile& tile, void (*kernel)(const LinearBlock&)) {
  std::vector<GemmShape> shapes;
  for (const LinearProblem& p : args.problems) shapes.push_back({p.c.rows, p.c.cols, p.b.k});
  const std::vector<GemmTask> tasks = partition_gemm(shapes, tile);
  stream.parallel(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
    const GemmTask& task = tasks[static_cast<size_t>(i)];
    kernel(block_of(args, args.problems[static_cast<size_t>(task.problem)], task));
  });
}

void run_blocks(const WeightGradientArgs& args, const Stream& stream, const GemmTile& tile,
                void (*kernel)(const GradientBlock&)) {
  std::vector<GemmShape> shapes;
  for (const WeightGradientProblem& p : args.problems)
    shapes.push_back(p.a.rows() == 0 ? GemmShape{} : GemmShape{p.c.rows, p.c.cols, p.a.rows()});
  const std::vector<GemmTask> tasks = partition_gemm(shapes, tile);
  stream.parallel(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
    const GemmTask& task = tasks[static_cast<size_t>(i)];
    kernel(block_of(args, args.problems[static_cast<size_t>(task.problem)], task));
  });
}

// A gradient's block reads all tokens for its rows and for its columns, so it is cut less finely.
constexpr GemmTile gradient_of(GemmTile tile) {
  tile.tasks = 8;
  tile.shortest_task_ns = 150e3;
  return tile;
}
constexpr GemmTile kReferenceTile{.rows = 1, .cols = 16, .flops_per_ns = 2};
constexpr GemmTile kAvx2Tile{.rows = 6, .cols = 16, .flops_per_ns = 60};
constexpr GemmTile kAvx512Tile{.rows = 12, .cols = 32, .flops_per_ns = 120, .few_rows = 20};
constexpr GemmTile kAmxTile{.rows = 32, .cols = 32, .flops_per_ns = 800};
constexpr GemmTile kReferenceGradient = gradient_of(kReferenceTile);
constexpr GemmTile kAvx2Gradient = gradient_of(kAvx2Tile);
constexpr GemmTile kAvx512Gradient = gradient_of(kAvx512Tile);
constexpr GemmTile kAmxGradient = gradient_of(kAmxTile);

// A row's two functions.
template <auto kKernel, const GemmTile& kTile, class Args>
void run(const Args& args, const Stream& stream) {
  run_blocks(args, stream, kTile, kKernel);
}
template <class Args>
std::string anything(const Args&) {
  return {};
}
template <DType kOperands, class Args>
std::string only(const Args& args) {
  if (args.problems.empty() || args.problems.front().a.dtype() == kOperands) return {};
  return fmt::format("operands are {}, not {}", dtype_name(args.problems.front().a.dtype()), dtype_name(kOperands));
}
// FP8 operands, summed in FP32.
template <class Args>
std::string fp8(const Args& args) {
  if (args.accumulator != Accumulator{}) return "another accumulator than FP32";
  if (args.problems.empty() || size_of(args.problems.front().a.dtype()) == 1) return {};
  return fmt::format("operands are {}, not FP8", dtype_name(args.problems.front().a.dtype()));
}
// Tiles take bf16, into which only powers of two fold.
template <class Args>
std::string fp8_pow2(const Args& args) {
  if (const std::string reason = fp8(args); !reason.empty()) return reason;
  return args.scales == ScaleRule::kPow2 ? "" : "FP32 scales do not fold into bf16";
}
constexpr auto kF32 = DType::kF32, kBF16 = DType::kBF16;

constexpr KernelRow<LinearArgs> kLinear[] = {
    {"amx_fp8", Isa::kAmx, fp8_pow2, run<gemm::linear_amx_fp8, kAmxTile>},
    {"amx_bf16", Isa::kAmx, only<kBF16>, run<gemm::linear_amx_bf16, kAmxTile>},
    {"avx512_fp8", Isa::kAvx512, fp8, run<gemm::linear_avx512_fp8, kAvx512Tile>},
    {"avx512_bf16", Isa::kAvx512, only<kBF16>, run<gemm::linear_avx512_bf16, kAvx512Tile>},
    {"avx512_f32", Isa::kAvx512, only<kF32>, run<gemm::linear_avx512_f32, kAvx512Tile>},
    {"avx2_fp8", Isa::kAvx2, fp8, run<gemm::linear_avx2_fp8, kAvx2Tile>},
    {"avx2_bf16", Isa::kAvx2, only<kBF16>, run<gemm::linear_avx2_bf16, kAvx2Tile>},
    {"avx2_f32", Isa::kAvx2, only<kF32>, run<gemm::linear_avx2_f32, kAvx2Tile>},
    {"reference", Isa::kReference, anything, run<gemm::linear_reference, kReferenceTile>},
};

constexpr KernelRow<WeightGradientArgs> kWeightGradient[] = {
    {"amx_fp8", Isa::kAmx, fp8_pow2, run<gemm::gradient_amx_fp8, kAmxGradient>},
    {"amx_bf16", Isa::kAmx, only<kBF16>, run<gemm::gradient_amx_bf16, kAmxGradient>},
    {"avx512_fp8", Isa::kAvx512, fp8, run<gemm::gradient_avx512_fp8, kAvx512Gradient>},
    {"avx512_bf16", Isa::kAvx512, only<kBF16>, run<gemm::gradient_avx512_bf16, kAvx512Gradient>},
    {"avx512_f32", Isa::kAvx512, only<kF32>, run<gemm::gradient_avx512_f32, kAvx512Gradient>},
    {"avx2_fp8", Isa::kAvx2, fp8, run<gemm::gradient_avx2_fp8, kAvx2Gradient>},
    {"avx2_bf16", Isa::kAvx2, only<kBF16>, run<gemm::gradient_avx2_bf16, kAvx2Gradient>},
    {"avx2_f32", Isa::kAvx2, only<kF32>, run<gemm::gradient_avx2_f32, kAvx2Gradient>},
    {"reference", Isa::kReference, anything, run<gemm::gradient_reference, kReferenceGradient>},
};

}  // namespace

std::span<const KernelRow<LinearArgs>> linear_kernels() {
  return kLinear;
}

std::span<const KernelRow<WeightGradientArgs>> weight_gradient_kernels() {
  return kWeightGradient;
}

void linear(const LinearArgs& args, const Stream& stream) {
  gemm::check(args);
  run_best(linear_kernels(), args, stream);
}

void weight_gradient(const WeightGradientArgs& args, const Stream& stream) {
  gemm::check(args);
  run_best(weight_gradient_kernels(), args, stream);
}

}  // namespace rorqual
