// Bytes per second of the passes over memory; "convert/…/F32/F32" is a plain copy, the bandwidth that all others aim at.
#include <fmt/format.h>

#include <vector>

#include "kernels/common/buffer_for_benches.h"
#include "kernels/elementwise/elementwise.h"

namespace rorqual {
namespace {

using ::rorqual::testing::Buffer;
using ::rorqual::testing::one_thread;

constexpr int64_t kRows = 1024, kCols = 7168;

void convert_of(benchmark::State& state, const KernelRow<ConvertArgs>& row, DType x_type, DType y_type, bool accumulate) {
  const Buffer x(x_type, kRows, kCols), y(y_type, kRows, kCols);
  for (auto _ : state) row.run({.x = x.tensor, .y = y.tensor, .accumulate = accumulate}, one_thread());
  state.SetBytesProcessed(state.iterations() * (x.tensor.bytes() + y.tensor.bytes() * (accumulate ? 2 : 1)));
}

void gather(benchmark::State& state, const KernelRow<GatherRowsArgs>& row, DType x_type, DType y_type) {
  const Buffer x(x_type, kRows, kCols), y(y_type, kRows, kCols);
  std::vector<int32_t> source;
  for (int64_t t = 0; t < kRows; ++t) source.push_back(static_cast<int32_t>(t * 389 % kRows));
  for (auto _ : state) row.run({.x = x.tensor, .source = source.data(), .y = y.tensor}, one_thread());
  state.SetBytesProcessed(state.iterations() * (x.tensor.bytes() + y.tensor.bytes()));
}

void combine(benchmark::State& state, const KernelRow<CombineRowsArgs>& row, DType x_type) {
  constexpr int64_t kTopK = 8, kTokens = 256;
  const Buffer x(x_type, kTokens * kTopK, kCols), y(DType::kF32, kTokens, kCols);
  std::vector<int32_t> rows, node;
  for (int64_t i = 0; i < kTokens * kTopK; ++i) {
    rows.push_back(static_cast<int32_t>(i * 389 % (kTokens * kTopK)));
    node.push_back(static_cast<int32_t>(i % kTopK / 4));
  }
  const CombineRowsArgs args{.x = x.tensor,
                             .row = rows.data(),
                             .node = node.data(),
                             .top_k = kTopK,
                             .payload = DType::kBF16,
                             .base = y.tensor,
                             .y = y.tensor};
  for (auto _ : state) row.run(args, one_thread());
  state.SetBytesProcessed(state.iterations() * (x.tensor.bytes() + 2 * y.tensor.bytes()));
}

void pass(benchmark::State& state, Isa isa, int which) {
  const ScopedIsa scoped(isa);
  const Buffer a(DType::kF32, kRows, kCols), b(DType::kF32, kRows, kCols);
  for (auto _ : state) {
    if (which == 0) benchmark::DoNotOptimize(squared_norm(a.tensor, one_thread()));
    if (which == 1) scale(a.tensor, 1.0, one_thread());
    if (which == 2) add_into(a.tensor, b.tensor, one_thread());
    if (which == 3) ema_update(a.tensor, b.tensor, 0.999, one_thread());
  }
  constexpr int64_t kPasses[] = {1, 2, 3, 3};
  state.SetBytesProcessed(state.iterations() * kPasses[which] * a.tensor.bytes());
}

void register_convert(const KernelRow<ConvertArgs>& row) {
  for (const DType x_type : {DType::kF32, DType::kBF16})
    for (const DType y_type : {DType::kF32, DType::kBF16})
      for (const bool accumulate : {false, true})
        benchmark::RegisterBenchmark(
            fmt::format("convert/{}/{}/{}{}", row.name, dtype_name(x_type), dtype_name(y_type), accumulate ? "/accumulate" : "")
                .c_str(),
            [=](benchmark::State& state) { convert_of(state, row, x_type, y_type, accumulate); });
}

const bool kRegistered = [] {
  for (const KernelRow<ConvertArgs>& row : convert_kernels())
    if (row.isa <= cpu_isa()) register_convert(row);
  for (const KernelRow<GatherRowsArgs>& row : gather_rows_kernels())
    if (row.isa <= cpu_isa())
      benchmark::RegisterBenchmark(fmt::format("gather_rows/{}/F32/BF16", row.name).c_str(),
                                   [=](benchmark::State& state) { gather(state, row, DType::kF32, DType::kBF16); });
  for (const KernelRow<CombineRowsArgs>& row : combine_rows_kernels())
    for (const DType dtype : {DType::kF32, DType::kBF16})
      if (row.isa <= cpu_isa())
        benchmark::RegisterBenchmark(fmt::format("combine_rows/{}/{}", row.name, dtype_name(dtype)).c_str(),
                                     [=](benchmark::State& state) { combine(state, row, dtype); });
  constexpr std::string_view kPassNames[] = {"squared_norm", "scale", "add_into", "ema_update"};
  for (int which = 0; which < 4; ++which)
    for (const Isa isa : {Isa::kAvx512, Isa::kAvx2, Isa::kReference})
      if (isa <= cpu_isa())
        benchmark::RegisterBenchmark(fmt::format("{}/{}", kPassNames[which], isa_name(isa)).c_str(),
                                     [=](benchmark::State& state) { pass(state, isa, which); });
  return true;
}();

}  // namespace
}  // namespace rorqual
