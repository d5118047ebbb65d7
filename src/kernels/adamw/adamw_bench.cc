#include <benchmark/benchmark.h>

#include <vector>

#include "kernels/adamw/adamw.h"

namespace rorqual {
namespace {

// 4 M weights: far beyond the second-level cache, as in training.
constexpr int64_t kCount = 4 << 20;

void step(benchmark::State& state, const KernelRow<AdamWArgs>& row, DType moment, int threads) {
  std::vector<float> w(kCount, 0.1f), g(kCount, 1e-3f), m(kCount, 0.0f), v(kCount, 0.0f);
  const AdamWTensor tensor{{w.data(), DType::kF32, 1, kCount},
                           {g.data(), DType::kF32, 1, kCount},
                           {m.data(), moment, 1, kCount},
                           {v.data(), moment, 1, kCount},
                           0.1};
  ThreadPool pool(threads);
  const AdamWArgs args{.tensors = {&tensor, 1}, .lr = 1e-4, .step = 10};
  for (auto _ : state) row.run(args, Stream(pool));
  state.SetItemsProcessed(state.iterations() * kCount);
  state.SetBytesProcessed(state.iterations() * kCount * (12 + 4 * size_of(moment)));
}

const bool kRegistered = [] {
  for (int threads : {1, 2})
    for (DType moment : {DType::kBF16, DType::kF32})
      for (const auto& row : adamw_kernels())
        if (row.isa <= cpu_isa())
          benchmark::RegisterBenchmark(
              fmt::format("adamw/{}/moments:{}/threads:{}", row.name, dtype_name(moment), threads).c_str(), step, row, moment,
              threads)
              ->UseRealTime();
  return true;
}();

}  // namespace
}  // namespace rorqual
