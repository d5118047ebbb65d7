// Every row of the tables at shapes of training and decoding: kernels_bench --benchmark_filter=gemm. The counter is GFLOP/s;
// compare rows with each other and with gemm/peak, not with other machines.
#include <benchmark/benchmark.h>

#include <algorithm>
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
    if (dtype == DType::kE4M3) {  // codes of every finite value
      for (int64_t i = 0; i < rows * cols; ++i) static_cast<uint8_t*>(data_.get())[i] = static_cast<uint8_t>(i * 37 % 127);
      return;
    }
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
constexpr Shape kShapes[] = {{"narrow", 1, 2048, 64, 256},    {"square", 1, 2048, 256, 256},  {"wide", 1, 2048, 1024, 256},
                             {"deep", 1, 2048, 256, 1024},    {"head", 1, 2048, 4096, 256},   {"experts", 16, 250, 128, 256},
                             {"large", 1, 1024, 1024, 1024},  {"decode_1", 1, 1, 2048, 2048}, {"decode_4", 1, 4, 2048, 2048},
                             {"decode_16", 1, 16, 2048, 2048}};

// The operands of one benchmark, kept alive together.
class Operands {
 public:
  Tensor make(DType dtype, int64_t rows, int64_t cols) {
    return list_.emplace_back(std::make_unique<Operand>(dtype, rows, cols))->tensor;
  }
  // FP8 with scales of the given rule.
  ScaledTensor make_scaled(DType dtype, int64_t rows, int64_t cols, ScaledTensor::Group group, ScaleRule rule) {
    const Tensor codes = make(dtype, rows, cols);
    if (dtype != DType::kE4M3) return codes;
    const bool row = group == ScaledTensor::Group::kRow;
    const Tensor scales = make(DType::kF32, row ? rows : scale_groups(rows), row ? scale_groups(cols) : cols);
    std::fill_n(scales.row<float>(0), scales.count(), rule == ScaleRule::kPow2 ? 0x1p-8f : 0x1.8p-9f);
    return {codes, scales, group};
  }
  PackedWeight make_weight(DType dtype, int64_t n, int64_t k, ScaleRule rule, const Stream& stream) {
    PackedWeight weight{make(dtype, 1, PackedWeight::bytes(dtype, n, k) / size_of(dtype)).data, dtype, n, k};
    weight.scale = make(DType::kF32, 1, PackedWeight::scale_count(n, k)).row<float>(0);
    const PackWeightArgs pack{make(dtype == DType::kE4M3 ? DType::kF32 : dtype, n, k), weight, {}, {.rule = rule}};
    pack_weights({&pack, 1}, stream);
    return weight;
  }

 private:
  std::vector<std::unique_ptr<Operand>> list_;
};

void set_speed(benchmark::State& state, const Shape& s) {
  const auto flops = 2.0 * static_cast<double>(s.problems) * static_cast<double>(s.m * s.n * s.k);
  state.counters["GFLOP/s"] = benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

void run_linear(benchmark::State& state, const KernelRow<LinearArgs>& row, DType dtype, ScaleRule rule, const Shape& s) {
  ThreadPool pool(static_cast<int>(state.range(0)));
  const Stream stream(pool);
  Operands operands;
  const DType out = dtype == DType::kE4M3 ? DType::kBF16 : dtype;
  std::vector<LinearProblem> problems;
  for (int64_t i = 0; i < s.problems; ++i)
    problems.push_back({operands.make_scaled(dtype, s.m, s.k, ScaledTensor::Group::kRow, rule),
                        operands.make_weight(dtype, s.n, s.k, rule, stream), operands.make(out, s.m, s.n)});
  const LinearArgs args{.problems = problems, .scales = rule};
  for (auto _ : state) row.run(args, stream);
  set_speed(state, s);
}

void run_gradient(benchmark::State& state, const KernelRow<WeightGradientArgs>& row, DType dtype, ScaleRule rule,
                  const Shape& s) {
  ThreadPool pool(static_cast<int>(state.range(0)));
  const Stream stream(pool);
  Operands operands;
  std::vector<WeightGradientProblem> problems;
  for (int64_t i = 0; i < s.problems; ++i)
    problems.push_back({operands.make_scaled(dtype, s.m, s.n, ScaledTensor::Group::kColumn, rule),
                        operands.make_scaled(dtype, s.m, s.k, ScaledTensor::Group::kColumn, rule),
                        operands.make(DType::kF32, s.n, s.k)});
  const WeightGradientArgs args{.problems = problems, .scales = rule};
  for (auto _ : state) row.run(args, stream);
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
    // FP8 with both rules of scales, as far as the row takes them.
    const auto add = [&](const char* op, const auto& row, auto args, auto body) {
      if (row.isa > cpu_isa() || row.isa == Isa::kReference) return;
      const bool fp8 = row.name.ends_with("fp8");
      const DType dtype = fp8 ? DType::kE4M3 : row.name.ends_with("bf16") ? DType::kBF16 : DType::kF32;
      for (const ScaleRule rule : {ScaleRule::kPow2, ScaleRule::kFp32}) {
        args.scales = rule;
        if ((!fp8 && rule != ScaleRule::kPow2) || !row.refuse(args).empty()) continue;
        std::string name = fmt::format("gemm/{}/{}/{}", op, s.what, row.name);
        if (fp8) name += rule == ScaleRule::kPow2 ? "/pow2" : "/fp32";
        threads(benchmark::RegisterBenchmark(name.c_str(),
                                             [=, &row](benchmark::State& state) { body(state, row, dtype, rule, s); }));
      }
    };
    for (const auto& row : linear_kernels()) add("linear", row, LinearArgs{}, run_linear);
    for (const auto& row : weight_gradient_kernels()) add("gradient", row, WeightGradientArgs{}, run_gradient);
  }
  return true;
}();

}  // namespace
}  // namespace rorqual
