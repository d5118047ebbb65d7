// GFLOP/s of paged attention per row of the table, one thread: decoding (one query per sequence) and chunks of a prompt.
#include <benchmark/benchmark.h>

#include <vector>

#include "base/rng.h"
#include "kernels/attention/paged_attention.h"

namespace rorqual {
namespace {

struct PagedShape {
  const char* name;
  int64_t sequences, queries, position, heads, kv_heads, qk, v;
  bool absorbed;  // the value is the key's beginning
};
constexpr PagedShape kShapes[] = {
    {"decode_1x512_mla8_160/128", 1, 1, 511, 8, 1, 160, 128, true},
    {"decode_16x512_mla8_160/128", 16, 1, 511, 8, 1, 160, 128, true},
    {"decode_1x4096_mla128_576/512", 1, 1, 4095, 128, 1, 576, 512, true},
    {"decode_16x512_gqa8/2_64", 16, 1, 511, 8, 2, 64, 64, false},
    {"prompt_512_mla8_160/128", 1, 512, 0, 8, 1, 160, 128, true},
    {"prompt_64at1984_mla128_576/512", 1, 64, 1984, 128, 1, 576, 512, true},
    {"prompt_512_gqa8/2_64", 1, 512, 0, 8, 2, 64, 64, false},
};

struct PagedData {
  std::vector<std::vector<std::byte>> memory;
  std::vector<std::vector<int32_t>> pages;
  std::vector<PagedSequence> sequences;
  PagedAttentionArgs args;
  double flops = 0;

  Tensor tensor(DType dtype, int64_t rows, int64_t cols) {
    memory.emplace_back(static_cast<size_t>(rows * cols * size_of(dtype)));
    const Tensor t(memory.back().data(), dtype, rows, cols);
    for (int64_t i = 0; i < rows * cols; ++i) {
      const auto x = static_cast<float>(static_cast<uint32_t>(i * 2654435761u) % 1000) / 500.0f - 1;
      if (dtype == DType::kF32) t.ptr<float>()[i] = x;
      if (dtype == DType::kBF16) t.ptr<Bf16>()[i] = Bf16(x);
    }
    return t;
  }

  PagedData(const PagedShape& b, DType dtype) {
    const int64_t length = b.position + b.queries, count = (length + kPageTokens - 1) / kPageTokens;
    const int64_t width = b.absorbed ? b.qk : b.kv_heads * (b.qk + b.v);
    args.shape = {b.heads, b.kv_heads, b.qk, b.v, b.qk, b.absorbed ? 0 : b.kv_heads * b.qk, b.v, 0.1};
    pages.resize(static_cast<size_t>(b.sequences));
    for (int64_t s = 0; s < b.sequences; ++s) {
      auto& p = pages[static_cast<size_t>(s)];
      for (int64_t i = 0; i < count; ++i) p.push_back(static_cast<int32_t>(i * b.sequences + s));
      sequences.push_back({s * b.queries, (s + 1) * b.queries, b.position, p.data()});
    }
    args.sequences = sequences;
    args.q = tensor(dtype, b.sequences * b.queries, b.heads * b.qk);
    args.o = tensor(dtype, b.sequences * b.queries, b.heads * b.v);
    args.cache = tensor(dtype, b.sequences * count * kPageTokens, width);
    const auto queries = static_cast<double>(b.queries);
    flops = 2.0 * static_cast<double>(b.sequences * b.heads * (b.qk + b.v)) *
            (queries * static_cast<double>(b.position) + queries * (queries + 1) / 2);
  }
};

void run(benchmark::State& state, const KernelRow<PagedAttentionArgs>& row, const PagedShape& shape, DType dtype) {
  PagedData data(shape, dtype);
  ThreadPool pool(1);
  const Stream stream(pool);
  for (auto _ : state) row.run(data.args, stream);
  state.counters["GFLOP/s"] =
      benchmark::Counter(data.flops, benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
}

const bool registered = [] {
  for (const auto& row : paged_attention_kernels()) {
    if (row.isa > cpu_isa() || row.isa == Isa::kReference) continue;
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      if (!row.refuse({.shape = {}, .sequences = {}, .q = Tensor(nullptr, dtype, 0, 0), .cache = {}, .o = {}}).empty())
        continue;
      for (const PagedShape& shape : kShapes)
        benchmark::RegisterBenchmark(fmt::format("paged_attention/{}/{}", row.name, shape.name).c_str(),
                                     [&row, &shape, dtype](benchmark::State& s) { run(s, row, shape, dtype); });
    }
  }
  return true;
}();

}  // namespace
}  // namespace rorqual
