// Bytes per second of SwiGLU's rows over DeepSeek-V3's expert width; compare convert's copy.
#include <fmt/format.h>

#include "kernels/common/buffer_for_benches.h"
#include "kernels/swiglu/swiglu.h"

namespace rorqual {
namespace {

using ::rorqual::testing::Buffer;
using ::rorqual::testing::one_thread;

constexpr int64_t kRows = 1024, kWidth = 2048;

void forward(benchmark::State& state, const KernelRow<SwiGluForwardArgs>& row, DType dtype) {
  const Buffer gate_up(dtype, kRows, 2 * kWidth), weight(DType::kF32, 1, kRows), h(dtype, kRows, kWidth);
  for (auto _ : state) row.run({.gate_up = gate_up.tensor, .weight = weight.tensor, .h = h.tensor}, one_thread());
  state.SetBytesProcessed(state.iterations() * 3 * h.tensor.bytes());
}

void backward(benchmark::State& state, const KernelRow<SwiGluBackwardArgs>& row, DType dtype) {
  const Buffer gate_up(dtype, kRows, 2 * kWidth), weight(DType::kF32, 1, kRows), d_h(dtype, kRows, kWidth),
      d_gate_up(dtype, kRows, 2 * kWidth), d_weight(DType::kF32, 1, kRows);
  const SwiGluBackwardArgs args{.gate_up = gate_up.tensor,
                                .weight = weight.tensor,
                                .d_h = d_h.tensor,
                                .d_gate_up = d_gate_up.tensor,
                                .d_weight = d_weight.tensor};
  for (auto _ : state) row.run(args, one_thread());
  state.SetBytesProcessed(state.iterations() * 5 * d_h.tensor.bytes());
}

template <class Args>
void add(std::string_view name, std::span<const KernelRow<Args>> rows,
         void (*body)(benchmark::State&, const KernelRow<Args>&, DType)) {
  for (const KernelRow<Args>& row : rows)
    for (const DType dtype : {DType::kF32, DType::kBF16})
      if (row.isa <= cpu_isa())
        benchmark::RegisterBenchmark(fmt::format("{}/{}/{}", name, row.name, dtype_name(dtype)).c_str(),
                                     [=](benchmark::State& state) { body(state, row, dtype); });
}

const bool kRegistered = [] {
  add("swiglu_forward", swiglu_forward_kernels(), forward);
  add("swiglu_backward", swiglu_backward_kernels(), backward);
  return true;
}();

}  // namespace
}  // namespace rorqual
