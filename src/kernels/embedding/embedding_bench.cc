#include <benchmark/benchmark.h>

#include <vector>

#include "kernels/embedding/embedding.h"

namespace rorqual {
namespace {

constexpr int64_t kTokens = 4096, kVocabulary = 8192, kHidden = 512;

struct Buffers {
  std::vector<float> table = std::vector<float>(kVocabulary * kHidden, 0.5f);
  std::vector<Bf16> rows = std::vector<Bf16>(kTokens * kHidden, Bf16(0.25f));
  std::vector<int32_t> token;
  Buffers() {
    for (int64_t t = 0; t < kTokens; ++t) token.push_back(static_cast<int32_t>(t * 7919 % kVocabulary));
  }
};

void forward(benchmark::State& state, const KernelRow<EmbeddingForwardArgs>& row, int threads) {
  Buffers b;
  ThreadPool pool(threads);
  const EmbeddingForwardArgs args{
      {b.table.data(), DType::kF32, kVocabulary, kHidden}, b.token.data(), {b.rows.data(), DType::kBF16, kTokens, kHidden}};
  for (auto _ : state) row.run(args, Stream(pool));
  state.SetBytesProcessed(state.iterations() * kTokens * kHidden * 6);
}

void backward(benchmark::State& state, const KernelRow<EmbeddingBackwardArgs>& row, int threads) {
  Buffers b;
  ThreadPool pool(threads);
  const EmbeddingBackwardArgs args{
      b.token.data(), {b.rows.data(), DType::kBF16, kTokens, kHidden}, {b.table.data(), DType::kF32, kVocabulary, kHidden}};
  for (auto _ : state) row.run(args, Stream(pool));
  state.SetBytesProcessed(state.iterations() * kTokens * kHidden * 10);
}

const bool kRegistered = [] {
  for (int threads : {1, 2}) {
    for (const auto& row : embedding_forward_kernels())
      if (row.isa <= cpu_isa())
        benchmark::RegisterBenchmark(fmt::format("embedding_forward/{}/threads:{}", row.name, threads).c_str(), forward, row,
                                     threads)
            ->UseRealTime();
    for (const auto& row : embedding_backward_kernels())
      if (row.isa <= cpu_isa())
        benchmark::RegisterBenchmark(fmt::format("embedding_backward/{}/threads:{}", row.name, threads).c_str(), backward, row,
                                     threads)
            ->UseRealTime();
  }
  return true;
}();

}  // namespace
}  // namespace rorqual
