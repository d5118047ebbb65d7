// Bytes per second of RMSNorm's rows over DeepSeek-V3's width; compare convert's copy.
#include <fmt/format.h>

#include "kernels/common/buffer_for_benches.h"
#include "kernels/rmsnorm/rmsnorm.h"

namespace rorqual {
namespace {

using ::rorqual::testing::against_copy;
using ::rorqual::testing::Buffer;
using ::rorqual::testing::CodedBuffer;
using ::rorqual::testing::one_thread;

constexpr int64_t kRows = 1024, kCols = 7168;

void forward(benchmark::State& state, const KernelRow<RmsNormForwardArgs>& row, DType dtype) {
  const Buffer x(dtype, kRows, kCols), w(DType::kF32, 1, kCols), y(dtype, kRows, kCols);
  for (auto _ : state) row.run({.x = x.tensor, .w = w.tensor, .y = y.tensor, .eps = 1e-6}, one_thread());
  state.SetBytesProcessed(state.iterations() * 2 * x.tensor.bytes());
}

// Quantised to E4M3; in GB/s against a copy of as many bytes.
void forward_quantised(benchmark::State& state, const KernelRow<RmsNormForwardArgs>& row, DType dtype) {
  const Buffer x(dtype, kRows, kCols), w(DType::kF32, 1, kCols);
  const CodedBuffer y(DType::kE4M3, kRows, kCols);
  QuantiseStatistics statistics;
  const RmsNormForwardArgs args{
      .x = x.tensor, .w = w.tensor, .y = y.tensor, .eps = 1e-6, .quantiser = {.statistics = &statistics}};
  against_copy(state, x.tensor.bytes() + y.tensor.bytes(), [&] { row.run(args, one_thread()); });
}

void input_gradient(benchmark::State& state, const KernelRow<RmsNormInputGradientArgs>& row, DType dtype) {
  const Buffer x(dtype, kRows, kCols), w(DType::kF32, 1, kCols), d_y(dtype, kRows, kCols), d_x(DType::kF32, kRows, kCols);
  const RmsNormInputGradientArgs args{
      .x = x.tensor, .w = w.tensor, .d_y = d_y.tensor, .d_x = d_x.tensor, .accumulate = true, .eps = 1e-6};
  for (auto _ : state) row.run(args, one_thread());
  state.SetBytesProcessed(state.iterations() * 2 * (x.tensor.bytes() + d_x.tensor.bytes()));
}

void weight_gradient(benchmark::State& state, const KernelRow<RmsNormWeightGradientArgs>& row, DType dtype) {
  const Buffer x(dtype, kRows, kCols), d_y(dtype, kRows, kCols), d_w(DType::kF32, 1, kCols);
  for (auto _ : state) row.run({.x = x.tensor, .d_y = d_y.tensor, .d_w = d_w.tensor, .eps = 1e-6}, one_thread());
  state.SetBytesProcessed(state.iterations() * 2 * x.tensor.bytes());
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
  add("rmsnorm_forward", rmsnorm_forward_kernels(), forward);
  add("rmsnorm_forward_quantised", rmsnorm_forward_kernels(), forward_quantised, true);
  add("rmsnorm_input_gradient", rmsnorm_input_gradient_kernels(), input_gradient);
  add("rmsnorm_weight_gradient", rmsnorm_weight_gradient_kernels(), weight_gradient);
  return true;
}();

}  // namespace
}  // namespace rorqual
