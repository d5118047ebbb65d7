// Quantisers over DeepSeek-V3's width and 4096 tokens, as shares of the copy bandwidth: bytes read once and written once,
// scales included.
#include <fmt/format.h>

#include "kernels/common/sm90a_figure.h"
#include "kernels/quantise/sm90a.h"

namespace rorqual {
namespace {

using ::rorqual::testing::add_pass_figure;
using ::rorqual::testing::DeviceMemory;
using ::rorqual::testing::Pass;
using ::rorqual::testing::pass_of;
using ::rorqual::testing::sized;
using Group = ScaledTensor::Group;

constexpr int64_t kTopK = 8;
const int64_t kTokens = sized(4096, 256), kWidth = sized(7168, 512);

std::string name_of(DType dtype) {
  return dtype == DType::kE4M3 ? "E4M3" : std::string(dtype_name(dtype));
}

// Of a matrix [rows, cols] of this type, with its scales.
int64_t bytes_with_scales(DType dtype, int64_t rows, int64_t cols) {
  const bool coded = dtype == DType::kE4M3 || dtype == DType::kE5M6;
  return bytes_of(dtype, rows * cols) + (coded ? 4 * rows * scale_groups(cols) : 0);
}

ScaledTensor blank_codes(DeviceMemory& memory, DType dtype, int64_t rows, int64_t cols) {
  return {memory.blank(dtype, rows, cols), memory.scales(rows, scale_groups(cols), ScaleRule::kFp32)};
}

// Random codes: of E5M6, which has codes of NaN, those of random values.
ScaledTensor random_codes(DeviceMemory& memory, DType dtype, int64_t rows, int64_t cols, ScaleRule rule) {
  if (dtype == DType::kE4M3) return memory.codes(rows, cols, Group::kRow, rule);
  const ScaledTensor y = blank_codes(memory, dtype, rows, cols);
  quantise_sm90a({.x = memory.random(DType::kBF16, rows, cols), .y = y, .quantiser = {.rule = rule}}, Stream::on_device());
  return y;
}

void add_quantise(DType x_type, DType y_type, ScaleRule rule) {
  const std::string name =
      fmt::format("quantise/{}_to_{}/{}", name_of(x_type), name_of(y_type), rule == ScaleRule::kPow2 ? "pow2" : "fp32");
  const int64_t bytes = bytes_with_scales(x_type, kTokens, kWidth) + bytes_with_scales(y_type, kTokens, kWidth);
  add_pass_figure(name, bytes, [=](DeviceMemory& memory) {
    return pass_of<QuantiseArgs>(refuse_quantise_sm90a, quantise_sm90a,
                                 {.x = memory.random(x_type, kTokens, kWidth),
                                  .y = blank_codes(memory, y_type, kTokens, kWidth),
                                  .quantiser = {.rule = rule}});
  });
}

void add_dequantise(DType x_type) {
  const int64_t bytes = bytes_with_scales(x_type, kTokens, kWidth) + bytes_with_scales(DType::kBF16, kTokens, kWidth);
  add_pass_figure(fmt::format("dequantise/{}_to_BF16", name_of(x_type)), bytes, [=](DeviceMemory& memory) {
    return pass_of<DequantiseArgs>(refuse_dequantise_sm90a, dequantise_sm90a,
                                   {.x = random_codes(memory, x_type, kTokens, kWidth, ScaleRule::kPow2),
                                    .y = memory.blank(DType::kBF16, kTokens, kWidth)});
  });
}

// 128×1 with transpose: what a weight gradient reads.
void add_columns(DType x_type) {
  const int64_t bytes = bytes_with_scales(x_type, kTokens, kWidth) + kTokens * kWidth + 4 * scale_groups(kTokens) * kWidth;
  add_pass_figure(fmt::format("requantise_columns/{}_to_E4M3", name_of(x_type)), bytes, [=](DeviceMemory& memory) {
    const ScaledTensor x = x_type == DType::kBF16 ? ScaledTensor(memory.random(x_type, kTokens, kWidth))
                                                  : random_codes(memory, x_type, kTokens, kWidth, ScaleRule::kPow2);
    const RequantiseProblem problem{x, memory.codes(kTokens, kWidth, Group::kColumnTransposed)};
    const auto args = [](const RequantiseProblem& one) { return RequantiseColumnsArgs{.problems = {&one, 1}}; };
    return Pass{refuse_requantise_columns_sm90a(args(problem)),
                [=](const Stream& stream) { requantise_columns_sm90a(args(problem), stream); }};
  });
}

// Every token to 8 rows in the order of a random-looking permutation.
void add_dispatch() {
  const int64_t rows = kTokens * kTopK;
  const int64_t bytes =
      bytes_with_scales(DType::kBF16, kTokens, kWidth) + bytes_with_scales(DType::kE4M3, rows, kWidth) + 4 * rows;
  add_pass_figure("quantise_dispatch/top8", bytes, [=](DeviceMemory& memory) {
    std::vector<int32_t> row_of_choice;
    for (int64_t i = 0; i < rows; ++i) row_of_choice.push_back(static_cast<int32_t>(i * 12289 % rows));
    return pass_of<QuantiseDispatchArgs>(refuse_quantise_dispatch_sm90a, quantise_dispatch_sm90a,
                                         {.x = memory.random(DType::kBF16, kTokens, kWidth),
                                          .row_of_choice = memory.values(row_of_choice),
                                          .top_k = kTopK,
                                          .y = blank_codes(memory, DType::kE4M3, rows, kWidth)});
  });
}

const bool kRegistered = [] {
  for (const ScaleRule rule : {ScaleRule::kFp32, ScaleRule::kPow2}) add_quantise(DType::kBF16, DType::kE4M3, rule);
  add_quantise(DType::kF32, DType::kE4M3, ScaleRule::kFp32);
  add_quantise(DType::kBF16, DType::kE5M6, ScaleRule::kPow2);
  for (const DType x_type : {DType::kE4M3, DType::kE5M6}) add_dequantise(x_type);
  for (const DType x_type : {DType::kE4M3, DType::kE5M6, DType::kBF16}) add_columns(x_type);
  add_dispatch();
  return true;
}();

}  // namespace
}  // namespace rorqual
