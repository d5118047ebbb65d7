// Bytes per second of SwiGLU's rows over DeepSeek-V3's expert width; compare convert's copy.
#include <fmt/format.h>

#include "kernels/common/buffer_for_benches.h"
#include "kernels/swiglu/swiglu.h"

namespace rorqual {
namespace {

using ::rorqual::testing::against_copy;
using ::rorqual::testing::Buffer;
using ::rorqual::testing::CodedBuffer;
using ::rorqual::testing::one_thread;

constexpr int64_t kRows = 1024, kWidth = 2048;

void forward(benchmark::State& state, const KernelRow<SwiGluForwardArgs>& row, DType dtype) {
  const Buffer gate_up(dtype, kRows, 2 * kWidth), weight(DType::kF32, 1, kRows), h(dtype, kRows, kWidth);
  for (auto _ : state) row.run({.gate_up = gate_up.tensor, .weight = weight.tensor, .h = h.tensor}, one_thread());
  state.SetBytesProcessed(state.iterations() * 3 * h.tensor.bytes());
}

// h in E4M3, and gate_up in E4M3 for backward; in GB/s against a copy of as many bytes.
void forward_quantised(benchmark::State& state, const KernelRow<SwiGluForwardArgs>& row, DType dtype) {
  const Buffer gate_up(dtype, kRows, 2 * kWidth), weight(DType::kF32, 1, kRows);
  const CodedBuffer h(DType::kE4M3, kRows, kWidth), cache(DType::kE4M3, kRows, 2 * kWidth);
  QuantiseStatistics statistics;
  const SwiGluForwardArgs args{.gate_up = gate_up.tensor,
                               .weight = weight.tensor,
                               .h = h.tensor,
                               .quantiser = {.statistics = &statistics},
                               .cache = cache.tensor,
                               .cache_quantiser = {.statistics = &statistics}};
  against_copy(state, gate_up.tensor.bytes() + h.tensor.bytes() + cache.tensor.bytes(), [&] { row.run(args, one_thread()); });
}

// From gate_up in E4M3 to its gradient in E4M3.
void backward_quantised(benchmark::State& state, const KernelRow<SwiGluBackwardArgs>& row, DType dtype) {
  const Buffer plain(DType::kF32, kRows, 2 * kWidth), weight(DType::kF32, 1, kRows), d_h(dtype, kRows, kWidth),
      d_weight(DType::kF32, 1, kRows);
  const CodedBuffer gate_up(DType::kE4M3, kRows, 2 * kWidth), d_gate_up(DType::kE4M3, kRows, 2 * kWidth);
  for (int64_t i = 0; i < gate_up.codes.tensor.count(); ++i)
    gate_up.codes.tensor.ptr<E4M3>()[i] = E4M3(plain.tensor.ptr<float>()[i]);
  QuantiseStatistics statistics;
  const SwiGluBackwardArgs args{.gate_up = gate_up.tensor,
                                .weight = weight.tensor,
                                .d_h = d_h.tensor,
                                .d_gate_up = d_gate_up.tensor,
                                .d_weight = d_weight.tensor,
                                .quantiser = {.statistics = &statistics}};
  against_copy(state, d_h.tensor.bytes() + gate_up.tensor.bytes() + d_gate_up.tensor.bytes(),
               [&] { row.run(args, one_thread()); });
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
         void (*body)(benchmark::State&, const KernelRow<Args>&, DType), bool manual_time = false) {
  for (const KernelRow<Args>& row : rows)
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      if (row.isa > cpu_isa()) continue;
      auto* registered = benchmark::RegisterBenchmark(fmt::format("{}/{}/{}", name, row.name, dtype_name(dtype)).c_str(),
                                                      [=](benchmark::State& state) { body(state, row, dtype); });
      if (manual_time) registered->UseManualTime();
    }
}

const bool kRegistered = [] {
  add("swiglu_forward", swiglu_forward_kernels(), forward);
  add("swiglu_forward_quantised", swiglu_forward_kernels(), forward_quantised, true);
  add("swiglu_backward_quantised", swiglu_backward_kernels(), backward_quantised, true);
  add("swiglu_backward", swiglu_backward_kernels(), backward);
  return true;
}();

}  // namespace
}  // namespace rorqual
