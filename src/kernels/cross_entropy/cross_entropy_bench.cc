#include <benchmark/benchmark.h>

#include <vector>

#include "kernels/cross_entropy/cross_entropy.h"

namespace rorqual {
namespace {

// Not in place, so that every iteration sees the same logits.
void loss_and_gradient(benchmark::State& state, const KernelRow<CrossEntropyArgs>& row, int64_t vocabulary, int threads) {
  const int64_t tokens = (4 << 20) / vocabulary;
  std::vector<float> logits(static_cast<size_t>(tokens * vocabulary)), coefficient(static_cast<size_t>(tokens), 1e-3f),
      nll(coefficient);
  std::vector<Bf16> d(logits.size());
  std::vector<int32_t> target(coefficient.size(), 1);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i * 7919 % 1000) * 0.01f;
  const CrossEntropyArgs args{{logits.data(), DType::kF32, tokens, vocabulary},
                              target.data(),
                              {coefficient.data(), DType::kF32, 1, tokens},
                              {nll.data(), DType::kF32, 1, tokens},
                              {d.data(), DType::kBF16, tokens, vocabulary}};
  ThreadPool pool(threads);
  for (auto _ : state) row.run(args, Stream(pool));
  state.SetItemsProcessed(state.iterations() * tokens * vocabulary);
}

const bool kRegistered = [] {
  for (int threads : {1, 2})
    for (int64_t vocabulary : {4096, 129280})
      for (const auto& row : cross_entropy_kernels())
        if (row.isa <= cpu_isa())
          benchmark::RegisterBenchmark(
              fmt::format("cross_entropy/{}/vocabulary:{}/threads:{}", row.name, vocabulary, threads).c_str(),
              loss_and_gradient, row, vocabulary, threads)
              ->UseRealTime();
  return true;
}();

}  // namespace
}  // namespace rorqual
