// GFLOP/s of attention per row of the tables, one thread: causal work only, 2 operations per multiply-add.
#include <benchmark/benchmark.h>

#include <vector>

#include "base/rng.h"
#include "kernels/attention/attention.h"

namespace rorqual {
namespace {

struct BenchShape {
  const char* name;
  int64_t sequences, tokens, heads, kv_heads, nope, rope, v;
};
constexpr BenchShape kShapes[] = {
    {"8x256_32+16/32", 8, 256, 4, 4, 32, 16, 32}, {"8x256_64+32/64", 8, 256, 4, 4, 64, 32, 64},
    {"4x512_64+32/64", 4, 512, 4, 4, 64, 32, 64}, {"1x2048_128+64/128", 1, 2048, 2, 2, 128, 64, 128},
    {"2x512_gqa_64/64", 2, 512, 8, 2, 64, 0, 64},
};

struct Data {
  AttentionShape shape;
  std::vector<AttentionSequence> sequences;
  std::vector<std::vector<std::byte>> memory;
  AttentionForwardArgs forward;
  AttentionBackwardArgs backward;
  double scores = 0;

  Tensor tensor(DType dtype, int64_t rows, int64_t cols) {
    memory.emplace_back(static_cast<size_t>(rows * cols * size_of(dtype) + 1));
    const Tensor t(memory.back().data(), dtype, rows, cols);
    for (int64_t i = 0; i < rows * cols; ++i) {
      const double x = random_normal({memory.size()}, static_cast<uint64_t>(i));
      if (dtype == DType::kF32) t.ptr<float>()[i] = static_cast<float>(x);
      if (dtype == DType::kBF16) t.ptr<Bf16>()[i] = Bf16(x);
    }
    return t;
  }

  Data(const BenchShape& b, DType dtype) : shape{b.heads, b.kv_heads, b.nope, b.rope, b.v, 0.1} {
    const int64_t rows = b.sequences * b.tokens, dim = b.nope + b.rope;
    for (int64_t s = 0; s < b.sequences; ++s)
      sequences.push_back({s * b.tokens, (s + 1) * b.tokens, s * b.tokens, (s + 1) * b.tokens});
    scores = static_cast<double>(b.sequences * b.heads * b.tokens * (b.tokens + 1) / 2);
    backward.shape = shape;
    backward.sequences = sequences;
    backward.q = tensor(dtype, rows, b.heads * dim);
    backward.k = tensor(dtype, rows, b.kv_heads * b.nope);
    if (b.rope > 0) backward.k_rope = tensor(dtype, rows, b.rope);
    backward.v = tensor(dtype, rows, b.kv_heads * b.v);
    backward.o = tensor(dtype, rows, b.heads * b.v);
    backward.d_o = tensor(dtype, rows, b.heads * b.v);
    backward.d_q = tensor(dtype, rows, b.heads * dim);
    backward.d_k = tensor(dtype, rows, b.kv_heads * b.nope);
    backward.d_v = tensor(dtype, rows, b.kv_heads * b.v);
    if (b.rope > 0) backward.d_k_rope = tensor(dtype, rows, b.rope);
    backward.lse = tensor(DType::kF32, b.heads, rows);
    backward.scratch = tensor(DType::kF32, 1, attention_backward_scratch(shape, sequences) + 1);
    backward.k_head_stride = backward.d_k_head_stride = b.nope;
    backward.v_head_stride = backward.d_v_head_stride = b.v;
    forward = {shape,           sequences,  {},  backward.q, backward.k,  b.nope,
               backward.k_rope, backward.v, b.v, backward.o, backward.lse};
  }
};

void run_forward(benchmark::State& state, const KernelRow<AttentionForwardArgs>& row, const BenchShape& shape, DType dtype) {
  Data data(shape, dtype);
  ThreadPool pool(1);
  for (auto _ : state) row.run(data.forward, Stream(pool));
  const double flops = data.scores * 2 * static_cast<double>(shape.nope + shape.rope + shape.v);
  state.counters["FLOP/s"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

void run_backward(benchmark::State& state, const KernelRow<AttentionBackwardArgs>& row, const BenchShape& shape, DType dtype) {
  Data data(shape, dtype);
  ThreadPool pool(1);
  attention_forward(data.forward, Stream(pool));
  for (auto _ : state) row.run(data.backward, Stream(pool));
  const double flops = data.scores * 2 * static_cast<double>(3 * (shape.nope + shape.rope) + 2 * shape.v);
  state.counters["FLOP/s"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

[[maybe_unused]] const bool registered = [] {
  for (const BenchShape& shape : kShapes)
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const auto& row : attention_forward_kernels())
        if (row.isa <= cpu_isa() && row.isa != Isa::kReference && row.name.ends_with(dtype == DType::kF32 ? "f32" : "bf16"))
          benchmark::RegisterBenchmark(
              fmt::format("attention_forward/{}/{}", row.name, shape.name).c_str(),
              [&row, &shape, dtype](benchmark::State& state) { run_forward(state, row, shape, dtype); });
      for (const auto& row : attention_backward_kernels())
        if (row.isa <= cpu_isa() && row.isa != Isa::kReference && row.name.ends_with(dtype == DType::kF32 ? "f32" : "bf16"))
          benchmark::RegisterBenchmark(
              fmt::format("attention_backward/{}/{}", row.name, shape.name).c_str(),
              [&row, &shape, dtype](benchmark::State& state) { run_backward(state, row, shape, dtype); });
    }
  return true;
}();

}  // namespace
}  // namespace rorqual
