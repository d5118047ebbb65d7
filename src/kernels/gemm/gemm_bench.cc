// Every row of the tables at shapes of training and decoding: kernels_bench --benchmark_filter=gemm. The counter is GFLOP/s;
// compare rows with each other and with gemm/peak, not with other machines.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <memory>
#include <vector>

#include "base/cpu.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/peak.h"

namespace rorqual {
namespace {

struct Free {
  void operator()(void* p) const { std::free(p); }
};
class Operand {
 public:
  Operand(DType dtype, int64_t rows, int64_t cols) {
    const int64_t bytes = (rows * cols * size_of(dtype) + 63) / 64 * 64 + 64;
    data_.reset(std::aligned_alloc(64, static_cast<size_t>(bytes)));
    tensor = Tensor(data_.get(), dtype, rows, cols);
    visit_float(dtype, [&](auto zero) {
      using T = decltype(zero);
      for (int64_t i = 0; i < rows * cols; ++i)
        static_cast<T*>(data_.get())[i] = static_cast<T>(static_cast<float>(i % 251) / 125 - 1);
    });
  }
  Tensor tensor;

 private:
  std::unique_ptr<void, Free> data_;
};

struct Shape {
  const char* what;
  int64_t problems, m, n, k;
};
constexpr Shape kShapes[] = {{"narrow", 1, 2048, 64, 256},   {"square", 1, 2048, 256, 256},  {"wide", 1, 2048, 1024, 256},
                             {"deep", 1, 2048, 256, 1024},   {"head", 1, 2048, 4096, 256},   {"experts", 16, 250, 128, 256},
                             {"large", 1, 1024, 1024, 1024}, {"decode_1", 1, 1, 2048, 2048}, {"decode_16", 1, 16, 2048, 2048}};

void set_speed(benchmark::State& state, const Shape& s) {
  const auto flops = 2.0 * static_cast<double>(s.problems) * static_cast<double>(s.m * s.n * s.k);
  state.counters["GFLOP/s"] = benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

void run_linear(benchmark::State& state, const KernelRow<LinearArgs>& row, DType dtype, const Shape& s) {
  ThreadPool pool(static_cast<int>(state.range(0)));
  const Stream stream(pool);
  std::vector<std::unique_ptr<Operand>> operands;
  const auto make = [&](int64_t rows, int64_t cols) {
    return operands.emplace_back(std::make_unique<Operand>(dtype, rows, cols))->tensor;
  };
  std::vector<LinearProblem> problems;
  for (int64_t i = 0; i < s.problems; ++i) {
    const PackedWeight weight{make((s.n + 15) / 16 * 16, (s.k + 1) / 2 * 2).data, dtype, s.n, s.k};
    const PackWeightArgs pack{make(s.n, s.k), weight, {}, {}};
    pack_weights({&pack, 1}, stream);
    problems.push_back({make(s.m, s.k), weight, make(s.m, s.n)});
  }
  for (auto _ : state) row.run({problems}, stream);
  set_speed(state, s);
}

void run_gradient(benchmark::State& state, const KernelRow<WeightGradientArgs>& row, DType dtype, const Shape& s) {
  ThreadPool pool(static_cast<int>(state.range(0)));
  const Stream stream(pool);
  std::vector<std::unique_ptr<Operand>> operands;
  const auto make = [&](DType type, int64_t rows, int64_t cols) {
    return operands.emplace_back(std::make_unique<Operand>(type, rows, cols))->tensor;
  };
  std::vector<WeightGradientProblem> problems;
  for (int64_t i = 0; i < s.problems; ++i)
    problems.push_back({make(dtype, s.m, s.n), make(dtype, s.m, s.k), make(DType::kF32, s.n, s.k)});
  for (auto _ : state) row.run({problems}, stream);
  set_speed(state, s);
}

void run_pack(benchmark::State& state, bool transposed) {
  ThreadPool pool(static_cast<int>(state.range(0)));
  const Stream stream(pool);
  const Operand source(DType::kF32, 1024, 1024), packed(DType::kBF16, 1024, 1024);
  const PackedWeight weight{packed.tensor.data, DType::kBF16, 1024, 1024};
  const PackWeightArgs args{source.tensor, transposed ? PackedWeight{} : weight, transposed ? weight : PackedWeight{}, {}};
  for (auto _ : state) pack_weights({&args, 1}, stream);
  state.SetItemsProcessed(state.iterations() * 1024 * 1024);
}

void run_peak(benchmark::State& state) {
  ThreadPool pool(static_cast<int>(state.range(0)));
  for (auto _ : state) state.counters["GFLOP/s"] = measure_peak_flops(DType::kBF16, Stream(pool));
}

void threads(benchmark::internal::Benchmark* b) {
  b->ArgName("threads")->UseRealTime()->Arg(1);
  if (default_thread_count() > 1) b->Arg(default_thread_count());
}

const bool kRegistered = [] {
  threads(benchmark::RegisterBenchmark("gemm/peak", run_peak)->Iterations(1));
  threads(benchmark::RegisterBenchmark("gemm/pack", run_pack, false));
  threads(benchmark::RegisterBenchmark("gemm/pack_transposed", run_pack, true));
  for (const Shape& s : kShapes) {
    const auto add = [&](const char* op, const auto& row, auto body) {
      if (row.isa > cpu_isa() || row.isa == Isa::kReference || row.name.ends_with("fp8")) return;  // no scales here
      const DType dtype = row.name.ends_with("bf16") ? DType::kBF16 : DType::kF32;
      const std::string name = fmt::format("gemm/{}/{}/{}", op, s.what, row.name);
      threads(benchmark::RegisterBenchmark(name.c_str(), [=, &row](benchmark::State& state) { body(state, row, dtype, s); }));
    };
    for (const auto& row : linear_kernels()) add("linear", row, run_linear);
    for (const auto& row : weight_gradient_kernels()) add("gradient", row, run_gradient);
  }
  return true;
}();

}  // namespace
}  // namespace rorqual
