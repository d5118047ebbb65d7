// RMSNorm: checks of arguments, the cut into tasks, the tables of rows.
#include <array>
#include <vector>

#include "kernels/common/partition.h"
#include "kernels/common/quantise_rows.h"
#include "kernels/rmsnorm/kernels.h"

namespace rorqual {
namespace {

void check_shapes(const Tensor& a, const Tensor& b) {
  CHECK(a.rows == b.rows && a.cols == b.cols, "[{}, {}] and [{}, {}]", a.rows, a.cols, b.rows, b.cols);
}
void check_weight(const Tensor& w, const Tensor& x) {
  CHECK(w.rows == 1 && w.cols == x.cols, "[{}, {}] for {} columns", w.rows, w.cols, x.cols);
  CHECK(w.dtype == (x.dtype == DType::kF64 ? DType::kF64 : DType::kF32), "{} for x {}", dtype_name(w.dtype),
        dtype_name(x.dtype));
}

// What the forward rows of an instruction set are made of.
struct ForwardKernels {
  decltype(&rmsnorm_reference::inverse_rms) inverse_rms;
  decltype(&rmsnorm_reference::forward) forward;
  decltype(&rmsnorm_avx2::forward_quantised) forward_quantised;  // or null
  const QuantiseKernels& quantise;
};
constexpr ForwardKernels kForwardReference = {rmsnorm_reference::inverse_rms, rmsnorm_reference::forward, nullptr,
                                              kQuantiseReference};
constexpr ForwardKernels kForwardAvx2 = {rmsnorm_avx2::inverse_rms, rmsnorm_avx2::forward, rmsnorm_avx2::forward_quantised,
                                         kQuantiseAvx2};
constexpr ForwardKernels kForwardAvx512 = {rmsnorm_avx512::inverse_rms, rmsnorm_avx512::forward,
                                           rmsnorm_avx512::forward_quantised, kQuantiseAvx512};

constexpr int64_t kChunk = 1024;  // columns that are normalised and quantised while they lie in the first-level cache

void forward_plain(const ForwardKernels& kernels, const RmsNormForwardArgs& args, const Tensor& y, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const double r = kernels.inverse_rms(args.x.raw_row(t), args.x.dtype, args.x.cols, args.eps);
    kernels.forward(args.x.raw_row(t), args.x.dtype, args.w.data, r, y.raw_row(t), y.dtype, args.x.cols);
  }
}

// A scale of each group: a row's values need not be stored.
void forward_in_groups(const ForwardKernels& kernels, const RmsNormForwardArgs& args, int64_t begin, int64_t end) {
  const Tensor& x = args.x;
  CountedRange counted(args.quantiser);
  for (int64_t t = begin; t < end; ++t) {
    const double r = kernels.inverse_rms(x.raw_row(t), x.dtype, x.cols, args.eps);
    kernels.forward_quantised(x.raw_row(t), x.dtype, bytes_to_rows_ahead(x, t), args.w.data, r,
                              args.y_plain ? args.y_plain.raw_row(t) : nullptr, args.y_plain.dtype,
                              quantise_row_of(args.y, t, args.quantiser, counted.counts()));
  }
}

void forward_quantised(const ForwardKernels& kernels, const RmsNormForwardArgs& args, int64_t bytes, const Stream& stream) {
  check_rows_coded(args.y);
  if (kernels.forward_quantised != nullptr && args.quantiser.granularity == Granularity::kGroup) {
    parallel_ranges(stream, args.x.rows, bytes,
                    [&](int64_t begin, int64_t end) { forward_in_groups(kernels, args, begin, end); });
    return;
  }
  const QuantiseShape shape{
      .rows = args.x.rows, .cols = args.x.cols, .source = DType::kF32, .chunk = kChunk, .bytes_per_row = bytes};
  quantise_rows(kernels.quantise, stream, shape, args.quantiser, [&] {
    const auto values = [&args, &kernels, r = 0.0, scratch = std::array<float, kChunk>()](int64_t t, int64_t begin,
                                                                                          int64_t n) mutable {
      const Tensor &x = args.x, &plain = args.y_plain;
      if (begin == 0) r = kernels.inverse_rms(x.raw_row(t), x.dtype, x.cols, args.eps);
      const auto run = [&](void* y, DType y_type) {
        kernels.forward(x.raw_row(t) + bytes_of(x.dtype, begin), x.dtype,
                        static_cast<const std::byte*>(args.w.data) + bytes_of(args.w.dtype, begin), r, y, y_type, n);
      };
      run(scratch.data(), DType::kF32);
      if (plain) run(plain.raw_row(t) + bytes_of(plain.dtype, begin), plain.dtype);
      return scratch.data();
    };
    return row_task(values, args.y);
  });
}

template <const ForwardKernels& kKernels>
void run_forward(const RmsNormForwardArgs& args, const Stream& stream) {
  check_shapes(args.x, args.y.codes);
  if (args.y_plain) check_shapes(args.x, args.y_plain);
  check_weight(args.w, args.x);
  const int64_t bytes = row_bytes(args.x.dtype, args.x.cols) + row_bytes(args.y.dtype(), args.x.cols) +
                        (args.y_plain ? row_bytes(args.y_plain.dtype, args.x.cols) : 0);
  if (is_coded(args.y.dtype())) return forward_quantised(kKernels, args, bytes, stream);
  parallel_ranges(stream, args.x.rows, bytes, [&](int64_t begin, int64_t end) {
    forward_plain(kKernels, args, args.y.codes, begin, end);
    if (args.y_plain) forward_plain(kKernels, args, args.y_plain, begin, end);
  });
}

template <auto kRows>
void run_input_gradient(const RmsNormInputGradientArgs& args, const Stream& stream) {
  check_shapes(args.x, args.d_y);
  check_shapes(args.x, args.d_x);
  check_weight(args.w, args.x);
  const int64_t bytes = args.x.cols * (size_of(args.x.dtype) + size_of(args.d_y.dtype) + size_of(args.d_x.dtype));
  parallel_ranges(stream, args.x.rows, bytes, [&](int64_t begin, int64_t end) { kRows(args, begin, end); });
}

// The blocks' sums, then their sum in order.
template <auto kBlock, class C>
void sum_blocks(const RmsNormWeightGradientArgs& args, const Stream& stream) {
  const int64_t rows = args.x.rows, d = args.x.cols;
  const int64_t blocks = (rows + kRmsNormBlockRows - 1) / kRmsNormBlockRows;
  std::vector<C> partial(static_cast<size_t>(blocks * d));
  const int64_t bytes = kRmsNormBlockRows * d * (size_of(args.x.dtype) + size_of(args.d_y.dtype));
  parallel_ranges(stream, blocks, bytes, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      kBlock(args, b * kRmsNormBlockRows, std::min(rows, (b + 1) * kRmsNormBlockRows), partial.data() + b * d);
  });
  C* d_w = args.d_w.ptr<C>();
  for (int64_t b = 0; b < blocks; ++b)
    for (int64_t i = 0; i < d; ++i) d_w[i] += partial[static_cast<size_t>(b * d + i)];
}

template <auto kBlock>
void run_weight_gradient(const RmsNormWeightGradientArgs& args, const Stream& stream) {
  check_shapes(args.x, args.d_y);
  check_weight(args.d_w, args.x);
  if (args.x.dtype == DType::kF64)
    sum_blocks<kBlock, double>(args, stream);
  else
    sum_blocks<kBlock, float>(args, stream);
}

template <class Args>
std::string refuse_nothing(const Args&) {
  return {};
}
template <class Args>
std::string refuse_f64(const Args& args) {
  bool any = args.x.dtype == DType::kF64;
  if constexpr (requires { args.y; }) any = any || args.y.codes.dtype == DType::kF64;
  if constexpr (requires { args.y_plain; }) any = any || args.y_plain.dtype == DType::kF64;
  if constexpr (requires { args.d_y; }) any = any || args.d_y.dtype == DType::kF64;
  if constexpr (requires { args.d_x; }) any = any || args.d_x.dtype == DType::kF64;
  return any ? "F64 belongs to the reference" : "";
}

}  // namespace

std::span<const KernelRow<RmsNormForwardArgs>> rmsnorm_forward_kernels() {
  static const std::array rows = {
      KernelRow<RmsNormForwardArgs>{"avx512", Isa::kAvx512, refuse_f64, run_forward<kForwardAvx512>},
      KernelRow<RmsNormForwardArgs>{"avx2", Isa::kAvx2, refuse_f64, run_forward<kForwardAvx2>},
      KernelRow<RmsNormForwardArgs>{"reference", Isa::kReference, refuse_nothing, run_forward<kForwardReference>},
  };
  return rows;
}

std::span<const KernelRow<RmsNormInputGradientArgs>> rmsnorm_input_gradient_kernels() {
  static const std::array rows = {
      KernelRow<RmsNormInputGradientArgs>{"avx512", Isa::kAvx512, refuse_f64,
                                          run_input_gradient<rmsnorm_avx512::input_gradient_rows>},
      KernelRow<RmsNormInputGradientArgs>{"avx2", Isa::kAvx2, refuse_f64,
                                          run_input_gradient<rmsnorm_avx2::input_gradient_rows>},
      KernelRow<RmsNormInputGradientArgs>{"reference", Isa::kReference, refuse_nothing,
                                          run_input_gradient<rmsnorm_reference::input_gradient_rows>},
  };
  return rows;
}

std::span<const KernelRow<RmsNormWeightGradientArgs>> rmsnorm_weight_gradient_kernels() {
  static const std::array rows = {
      KernelRow<RmsNormWeightGradientArgs>{"avx512", Isa::kAvx512, refuse_f64,
                                           run_weight_gradient<rmsnorm_avx512::weight_gradient_block>},
      KernelRow<RmsNormWeightGradientArgs>{"avx2", Isa::kAvx2, refuse_f64,
                                           run_weight_gradient<rmsnorm_avx2::weight_gradient_block>},
      KernelRow<RmsNormWeightGradientArgs>{"reference", Isa::kReference, refuse_nothing,
                                           run_weight_gradient<rmsnorm_reference::weight_gradient_block>},
  };
  return rows;
}

void rmsnorm_forward(const RmsNormForwardArgs& args, const Stream& stream) {
  run_best(rmsnorm_forward_kernels(), args, stream);
}
void rmsnorm_input_gradient(const RmsNormInputGradientArgs& args, const Stream& stream) {
  run_best(rmsnorm_input_gradient_kernels(), args, stream);
}
void rmsnorm_weight_gradient(const RmsNormWeightGradientArgs& args, const Stream& stream) {
  run_best(rmsnorm_weight_gradient_kernels(), args, stream);
}

}  // namespace rorqual
