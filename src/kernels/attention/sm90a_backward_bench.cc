// FLOP/s of attention's backward pass on Hopper: causal work only, five products, 2 operations per multiply-add.
#include <benchmark/benchmark.h>

#include "base/rng.h"
#include "hopper/runtime.h"
#include "kernels/attention/sm90a.h"
#include "numerics/bf16.h"

namespace rorqual {
namespace {

// Normal values; the first 2^20 are repeated.
hopper::DeviceBuffer random_values(int64_t n, uint64_t seed) {
  constexpr int64_t kDrawn = 1 << 20;
  std::vector<Bf16> values(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i)
    values[static_cast<size_t>(i)] = i < kDrawn ? Bf16(static_cast<float>(random_normal({seed}, static_cast<uint64_t>(i))))
                                                : values[static_cast<size_t>(i - kDrawn)];
  return {values.data(), values.size() * sizeof(Bf16)};
}

// Laid out as MLA's training has it: nope part of k and v of a head side by side. lse is larger than any true one, so that no
// weight overflows; it changes no time.
void backward(benchmark::State& state) {
  const int64_t sequences = state.range(0), tokens = state.range(1), heads = state.range(2), rows = sequences * tokens;
  std::vector<AttentionSequence> list;
  for (int64_t i = 0; i < sequences; ++i) list.push_back({i * tokens, (i + 1) * tokens, i * tokens, (i + 1) * tokens});
  AttentionBackwardArgs a;
  a.shape = {heads, heads, 128, 64, 128, 0.07216878364870322};
  a.sequences = list;
  const hopper::DeviceBuffer q = random_values(rows * heads * 192, 1), kv = random_values(rows * heads * 256, 2),
                             k_rope = random_values(rows * 64, 3), o = random_values(rows * heads * 128, 4),
                             d_o = random_values(rows * heads * 128, 5), d_q(q.bytes()), d_kv(kv.bytes()),
                             d_k_rope(k_rope.bytes()),
                             scratch(static_cast<size_t>(4 * attention_backward_scratch_sm90a(a.shape, list)));
  const std::vector<float> large(static_cast<size_t>(heads * rows), 30.0f);
  const hopper::DeviceBuffer lse(large.data(), large.size() * 4);
  const auto bf16 = [&](const hopper::DeviceBuffer& b, int64_t cols) { return Tensor(b.data(), DType::kBF16, rows, cols); };
  a.q = bf16(q, heads * 192);
  a.k = bf16(kv, heads * 256);
  a.v = a.k.col_range(128, heads * 256 - 128);
  a.k_rope = bf16(k_rope, 64);
  a.o = bf16(o, heads * 128);
  a.d_o = bf16(d_o, heads * 128);
  a.lse = Tensor(lse.data(), DType::kF32, heads, rows);
  a.d_q = bf16(d_q, heads * 192);
  a.d_k = bf16(d_kv, heads * 256);
  a.d_v = a.d_k.col_range(128, heads * 256 - 128);
  a.d_k_rope = bf16(d_k_rope, 64);
  a.k_head_stride = a.v_head_stride = a.d_k_head_stride = a.d_v_head_stride = 256;
  a.scratch = Tensor(scratch.data(), DType::kF32, 1, static_cast<int64_t>(scratch.bytes() / 4));
  attention_backward_sm90a(a, Stream::on_device());
  double seconds = 0;
  for (auto _ : state) {
    hopper::Timer timer;
    timer.start();
    attention_backward_sm90a(a, Stream::on_device());
    timer.stop();
    seconds = timer.elapsed_ms() / 1000;
    state.SetIterationTime(seconds);
  }
  const double scores = static_cast<double>(sequences * heads) * static_cast<double>(tokens * (tokens + 1) / 2);
  state.counters["FLOP/s"] =
      benchmark::Counter(2.0 * (3 * 192 + 2 * 128) * scores, benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(backward)
    ->Name("attention_backward_sm90a")
    ->Args({1, 4096, 128})
    ->Args({4, 4096, 16})
    ->Args({1, 32768, 4})
    ->Args({16, 512, 128})
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace rorqual
