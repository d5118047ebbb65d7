// Bytes per second of RoPE's rows over DeepSeek-V3's queries: 128 heads of 128 + 64, the last 64 rotated.
#include <benchmark/benchmark.h>

#include <vector>

#include "kernels/rope/rope.h"

namespace rorqual {
namespace {

constexpr int64_t kRows = 512, kHeads = 128, kHead = 192, kDim = 64;

void rotate(benchmark::State& state, const KernelRow<RopeArgs>& row, DType dtype, bool interleaved) {
  ThreadPool pool(1);
  std::vector<std::byte> x(static_cast<size_t>(kRows * kHeads * kHead * size_of(dtype)));
  std::vector<float> table(kRows * kDim, 0.7f);
  std::vector<int32_t> position;
  for (int32_t t = 0; t < kRows; ++t) position.push_back(t);
  const RopeArgs args{.x = {x.data(), dtype, kRows, kHeads * kHead},
                      .heads = kHeads,
                      .head_stride = kHead,
                      .offset = kHead - kDim,
                      .dim = kDim,
                      .table = {table.data(), DType::kF32, kRows, kDim},
                      .position = position.data(),
                      .interleaved = interleaved};
  for (auto _ : state) row.run(args, Stream(pool));
  state.SetBytesProcessed(state.iterations() * 2 * kRows * kHeads * kDim * size_of(dtype));
}

const bool kRegistered = [] {
  for (const KernelRow<RopeArgs>& row : rope_kernels())
    for (const DType dtype : {DType::kF32, DType::kBF16})
      for (const bool interleaved : {true, false})
        if (row.isa <= cpu_isa())
          benchmark::RegisterBenchmark(
              fmt::format("rope/{}/{}/{}", row.name, dtype_name(dtype), interleaved ? "interleaved" : "halves").c_str(),
              [=](benchmark::State& state) { rotate(state, row, dtype, interleaved); });
  return true;
}();

}  // namespace
}  // namespace rorqual
