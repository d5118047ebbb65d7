#include <benchmark/benchmark.h>

#include <vector>

#include "base/rng.h"
#include "kernels/router/router.h"

namespace rorqual {
namespace {

constexpr int64_t kTokens = 2048;
const RouterShape kSmall{.experts = 16, .top_k = 4, .groups = 4, .top_groups = 2};
const RouterShape kV3{.experts = 256, .top_k = 8, .groups = 8, .top_groups = 4, .scale = 2.5};
const RouterShape k16B{
    .experts = 64, .top_k = 6, .score = ScoreFunction::kSoftmax, .group_sum_of_two = false, .normalise = false};

struct Buffers {
  std::vector<float> logits, scores, bias, weight, d_logits;
  std::vector<int32_t> expert;
  RouterForwardArgs forward;
  RouterBackwardArgs backward;

  explicit Buffers(const RouterShape& s)
      : scores(kTokens * s.experts),
        bias(s.experts),
        weight(kTokens * s.top_k),
        d_logits(kTokens * s.experts),
        expert(kTokens * s.top_k) {
    for (int64_t i = 0; i < kTokens * s.experts; ++i)
      logits.push_back(static_cast<float>(random_normal({.seed = 1}, static_cast<uint64_t>(i))));
    const Tensor all_scores{scores.data(), DType::kF32, kTokens, s.experts},
        weights{weight.data(), DType::kF32, kTokens, s.top_k};
    forward = {s,
               {logits.data(), DType::kF32, kTokens, s.experts},
               {bias.data(), DType::kF32, 1, s.experts},
               all_scores,
               expert.data(),
               weights};
    backward = {s, all_scores, expert.data(), weights, 512, 1e-4, {d_logits.data(), DType::kF32, kTokens, s.experts}};
  }
};

void forward(benchmark::State& state, const KernelRow<RouterForwardArgs>& row, const RouterShape& shape, int threads) {
  Buffers b(shape);
  ThreadPool pool(threads);
  for (auto _ : state) row.run(b.forward, Stream(pool));
  state.SetItemsProcessed(state.iterations() * kTokens);
}

void backward(benchmark::State& state, const KernelRow<RouterBackwardArgs>& row, const RouterShape& shape, int threads) {
  Buffers b(shape);
  ThreadPool pool(threads);
  router_forward(b.forward, Stream(pool));
  for (auto _ : state) row.run(b.backward, Stream(pool));
  state.SetItemsProcessed(state.iterations() * kTokens);
}

void statistics(benchmark::State& state, const RouterShape& shape, int threads) {
  Buffers b(shape);
  ThreadPool pool(threads);
  router_forward(b.forward, Stream(pool));
  std::vector<int64_t> load(static_cast<size_t>(shape.experts));
  for (auto _ : state)
    benchmark::DoNotOptimize(router_statistics(shape, b.forward.scores, b.expert.data(), 512, 1e-4, load.data(), Stream(pool)));
  state.SetItemsProcessed(state.iterations() * kTokens);
}

void register_shape(std::string_view name, const RouterShape& shape, int threads) {
  const auto title = [&](std::string_view what, std::string_view kernel) {
    return fmt::format("router_{}/{}/{}/threads:{}", what, kernel, name, threads);
  };
  for (const auto& row : router_forward_kernels())
    if (row.isa <= cpu_isa())
      benchmark::RegisterBenchmark(title("forward", row.name).c_str(), forward, row, shape, threads)->UseRealTime();
  for (const auto& row : router_backward_kernels())
    if (row.isa <= cpu_isa())
      benchmark::RegisterBenchmark(title("backward", row.name).c_str(), backward, row, shape, threads)->UseRealTime();
  benchmark::RegisterBenchmark(title("statistics", "scalar").c_str(), statistics, shape, threads)->UseRealTime();
}

const bool kRegistered = [] {
  for (int threads : {1, 2}) {
    register_shape("tiny", kSmall, threads);
    register_shape("v3", kV3, threads);
    register_shape("16b", k16B, threads);
  }
  return true;
}();

}  // namespace
}  // namespace rorqual
