// Bytes per second of the quantising passes over DeepSeek-V3's width, and their share of a copy's.
#include <fmt/format.h>

#include "kernels/common/buffer_for_benches.h"
#include "kernels/quantise/quantise.h"

namespace rorqual {
namespace {

using ::rorqual::testing::against_copy;
using ::rorqual::testing::Buffer;
using ::rorqual::testing::CodedBuffer;
using ::rorqual::testing::one_thread;

constexpr int64_t kRows = 512, kCols = 7168;

template <class Args, class Body>
void add(std::string_view operation, std::string_view variant, std::span<const KernelRow<Args>> rows, Body body) {
  for (const KernelRow<Args>& row : rows)
    if (row.isa <= cpu_isa())
      benchmark::RegisterBenchmark(fmt::format("{}/{}/{}", operation, row.name, variant).c_str(), [=](benchmark::State& state) {
        body(state, row);
      })->UseManualTime();
}

void add_quantise(DType x_type, DType y_type, ScaleRule rule) {
  const std::string variant =
      fmt::format("{}/{}/{}", dtype_name(x_type), dtype_name(y_type), rule == ScaleRule::kPow2 ? "pow2" : "fp32");
  add<QuantiseArgs>("quantise", variant, quantise_kernels(), [=](benchmark::State& state, const KernelRow<QuantiseArgs>& row) {
    const Buffer x(x_type, kRows, kCols);
    const CodedBuffer y(y_type, kRows, kCols);
    QuantiseStatistics statistics;
    const QuantiseArgs args{.x = x, .y = y, .quantiser = {.rule = rule, .statistics = &statistics}};
    against_copy(state, x.tensor.bytes() + y.tensor.bytes(), [&] { row.run(args, one_thread()); });
  });
}

void add_dequantise(DType x_type, DType y_type) {
  const std::string variant = fmt::format("{}/{}", dtype_name(x_type), dtype_name(y_type));
  add<DequantiseArgs>(
      "dequantise", variant, dequantise_kernels(), [=](benchmark::State& state, const KernelRow<DequantiseArgs>& row) {
        const CodedBuffer x(x_type, kRows, kCols);
        const Buffer y(y_type, kRows, kCols);
        against_copy(state, x.tensor.bytes() + y.tensor.bytes(), [&] { row.run({.x = x, .y = y}, one_thread()); });
      });
}

void add_requantise(DType x_type, ScaleRule rule) {
  const std::string variant = fmt::format("{}/{}", dtype_name(x_type), rule == ScaleRule::kPow2 ? "pow2" : "fp32");
  add<RequantiseColumnsArgs>(
      "requantise_columns", variant, requantise_columns_kernels(),
      [=](benchmark::State& state, const KernelRow<RequantiseColumnsArgs>& row) {
        const Buffer plain(x_type == DType::kBF16 ? DType::kBF16 : DType::kF32, kRows, kCols);
        const CodedBuffer coded(x_type == DType::kBF16 ? DType::kE4M3 : x_type, kRows, kCols);
        const CodedBuffer y(DType::kE4M3, kRows, kCols, ScaledTensor::Group::kColumn);
        quantise({.x = plain, .y = coded, .quantiser = {.rule = rule}}, one_thread());
        QuantiseStatistics statistics;
        const RequantiseProblem problem{x_type == DType::kBF16 ? ScaledTensor(plain.tensor) : coded.tensor, y};
        const RequantiseColumnsArgs args{.problems = {&problem, 1}, .quantiser = {.rule = rule, .statistics = &statistics}};
        against_copy(state, problem.x.bytes() + y.tensor.bytes(), [&] { row.run(args, one_thread()); });
      });
}

void add_dispatch() {
  add<QuantiseDispatchArgs>("quantise_dispatch", "BF16/top8", quantise_dispatch_kernels(),
                            [](benchmark::State& state, const KernelRow<QuantiseDispatchArgs>& row) {
                              constexpr int64_t kTokens = 128, kTopK = 8;
                              const Buffer x(DType::kBF16, kTokens, kCols);
                              const CodedBuffer y(DType::kE4M3, kTokens * kTopK, kCols), own(DType::kE4M3, kTokens, kCols);
                              std::vector<int32_t> row_of_choice;
                              for (int64_t i = 0; i < kTokens * kTopK; ++i)
                                row_of_choice.push_back(static_cast<int32_t>(i * 389 % (kTokens * kTopK)));
                              QuantiseStatistics statistics;
                              const QuantiseDispatchArgs args{.x = x,
                                                              .row_of_choice = row_of_choice.data(),
                                                              .top_k = kTopK,
                                                              .y = y,
                                                              .own = own,
                                                              .quantiser = {.statistics = &statistics}};
                              against_copy(state, x.tensor.bytes() + y.tensor.bytes() + own.tensor.bytes(),
                                           [&] { row.run(args, one_thread()); });
                            });
}

const bool kRegistered = [] {
  for (const ScaleRule rule : {ScaleRule::kPow2, ScaleRule::kFp32}) {
    for (const DType x_type : {DType::kBF16, DType::kF32})
      for (const DType y_type : {DType::kE4M3, DType::kE5M6}) add_quantise(x_type, y_type, rule);
    for (const DType x_type : {DType::kE4M3, DType::kE5M6, DType::kBF16}) add_requantise(x_type, rule);
  }
  for (const DType x_type : {DType::kE4M3, DType::kE5M6})
    for (const DType y_type : {DType::kBF16, DType::kF32}) add_dequantise(x_type, y_type);
  add_dispatch();
  return true;
}();

}  // namespace
}  // namespace rorqual
