// SwiGLU: checks of arguments, the cut into tasks, the tables of rows.
#include <array>

#include "kernels/common/partition.h"
#include "kernels/swiglu/kernels.h"

namespace rorqual {
namespace {

void check_shapes(const Tensor& gate_up, const Tensor& h) {
  CHECK(gate_up.rows == h.rows && gate_up.cols == 2 * h.cols, "[{}, {}] for [{}, {}]", gate_up.rows, gate_up.cols, h.rows,
        h.cols);
}
void check_per_row(const Tensor& weight, const Tensor& gate_up) {
  if (!weight) return;
  CHECK(weight.rows == 1 && weight.cols == gate_up.rows, "[{}, {}] for {} rows", weight.rows, weight.cols, gate_up.rows);
  CHECK(weight.dtype == (gate_up.dtype == DType::kF64 ? DType::kF64 : DType::kF32), "{} for {}", dtype_name(weight.dtype),
        dtype_name(gate_up.dtype));
}

template <auto kRows>
void run_forward(const SwiGluForwardArgs& args, const Stream& stream) {
  check_shapes(args.gate_up.codes, args.h.codes);
  check_per_row(args.weight, args.gate_up.codes);
  parallel_ranges(stream, args.h.codes.rows,
                  args.h.codes.cols * (2 * size_of(args.gate_up.codes.dtype) + size_of(args.h.codes.dtype)),
                  [&](int64_t begin, int64_t end) { kRows(args, begin, end); });
}

template <auto kRows>
void run_backward(const SwiGluBackwardArgs& args, const Stream& stream) {
  check_shapes(args.gate_up.codes, args.d_h);
  check_shapes(args.d_gate_up.codes, args.d_h);
  check_per_row(args.weight, args.gate_up.codes);
  check_per_row(args.d_weight, args.gate_up.codes);
  CHECK(args.d_gate_up.codes.data != args.gate_up.codes.data || (args.d_gate_up.codes.dtype == args.gate_up.codes.dtype &&
                                                                 args.d_gate_up.codes.stride == args.gate_up.codes.stride),
        "in place, but types or strides differ");
  const int64_t bytes = args.d_h.cols * (2 * size_of(args.gate_up.codes.dtype) + size_of(args.d_h.dtype) +
                                         2 * size_of(args.d_gate_up.codes.dtype));
  parallel_ranges(stream, args.d_h.rows, bytes, [&](int64_t begin, int64_t end) { kRows(args, begin, end); });
}

template <class Args>
std::string refuse_nothing(const Args&) {
  return {};
}
template <class Args>
std::string refuse_f64(const Args& args) {
  bool any = args.gate_up.codes.dtype == DType::kF64;
  if constexpr (requires { args.h.codes; }) any = any || args.h.codes.dtype == DType::kF64;
  if constexpr (requires { args.d_h; }) any = any || args.d_h.dtype == DType::kF64 || args.d_gate_up.codes.dtype == DType::kF64;
  return any ? "F64 belongs to the reference" : "";
}

}  // namespace

std::span<const KernelRow<SwiGluForwardArgs>> swiglu_forward_kernels() {
  static const std::array rows = {
      KernelRow<SwiGluForwardArgs>{"avx512", Isa::kAvx512, refuse_f64, run_forward<swiglu_avx512::forward_rows>},
      KernelRow<SwiGluForwardArgs>{"avx2", Isa::kAvx2, refuse_f64, run_forward<swiglu_avx2::forward_rows>},
      KernelRow<SwiGluForwardArgs>{"reference", Isa::kReference, refuse_nothing, run_forward<swiglu_reference::forward_rows>},
  };
  return rows;
}

std::span<const KernelRow<SwiGluBackwardArgs>> swiglu_backward_kernels() {
  static const std::array rows = {
      KernelRow<SwiGluBackwardArgs>{"avx512", Isa::kAvx512, refuse_f64, run_backward<swiglu_avx512::backward_rows>},
      KernelRow<SwiGluBackwardArgs>{"avx2", Isa::kAvx2, refuse_f64, run_backward<swiglu_avx2::backward_rows>},
      KernelRow<SwiGluBackwardArgs>{"reference", Isa::kReference, refuse_nothing,
                                    run_backward<swiglu_reference::backward_rows>},
  };
  return rows;
}

void swiglu_forward(const SwiGluForwardArgs& args, const Stream& stream) {
  run_best(swiglu_forward_kernels(), args, stream);
}
void swiglu_backward(const SwiGluBackwardArgs& args, const Stream& stream) {
  run_best(swiglu_backward_kernels(), args, stream);
}

}  // namespace rorqual
