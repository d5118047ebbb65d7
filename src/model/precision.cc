#include "model/precision.h"

#include <array>
#include <utility>

#include "base/error.h"

namespace rorqual {
namespace {

template <class T, size_t kCount>
T choose(const char* key, const std::string& word, const std::array<std::pair<const char*, T>, kCount>& choices) {
  std::string known;
  for (const auto& [name, value] : choices) {
    if (word == name) return value;
    known += (known.empty() ? "" : ", ") + std::string(name);
  }
  fail_usage("{} = '{}' is unknown: {}", key, word, known);
}

enum class Base { kFp8, kBf16, kFp32, kFp64 };
enum class Scales { kPow2, kReport, kFp32 };
using Choice = std::pair<const char*, Granularity>;

Precision plain(std::string name, DType compute, DType full, DType moments) {
  Precision p;
  p.name = std::move(name);
  p.compute = p.payload = p.operand = p.gradient = p.attention_cache = p.swiglu_cache = compute;
  p.full = full;
  p.residual = p.moments = moments;
  return p;
}

void add_fp8(Precision& p, const PrecisionRecipe& r) {
  p.operand = DType::kE4M3;
  p.gradient = choose<DType>("fp8.gradient_format", r.gradient_format,
                             std::array{std::pair{"e4m3", DType::kE4M3}, std::pair{"e5m2", DType::kE5M2}});
  p.attention_cache = choose<DType>("fp8.attention_cache", r.attention_cache,
                                    std::array{std::pair{"e5m6", DType::kE5M6}, std::pair{"bf16", DType::kBF16}});
  p.swiglu_cache = choose<DType>("fp8.swiglu_cache", r.swiglu_cache,
                                 std::array{std::pair{"e4m3", DType::kE4M3}, std::pair{"bf16", DType::kBF16}});
  const auto scales = choose<Scales>(
      "scales", r.scales,
      std::array{std::pair{"pow2", Scales::kPow2}, std::pair{"report", Scales::kReport}, std::pair{"fp32", Scales::kFp32}});
  const ScaleRule rule = scales == Scales::kPow2 ? ScaleRule::kPow2 : ScaleRule::kFp32;
  const ScaleRule rounded = scales == Scales::kFp32 ? ScaleRule::kFp32 : ScaleRule::kPow2;
  const auto granularity = [](const char* key, const std::string& word) {
    return choose<Granularity>(key, word,
                               std::array{Choice{"group", Granularity::kGroup}, Choice{"tensor", Granularity::kTensor}});
  };
  p.products = rule;
  p.activations = {.rule = rule, .granularity = granularity("fp8.activation_granularity", r.activation_granularity)};
  p.weights = {.rule = rule, .granularity = granularity("fp8.weight_granularity", r.weight_granularity)};
  p.gradients = {
      .rule = rule,
      .granularity = choose<Granularity>("fp8.gradient_granularity", r.gradient_granularity,
                                         std::array{Choice{"group", Granularity::kGroup}, Choice{"block", Granularity::kBlock},
                                                    Choice{"tensor", Granularity::kTensor}})};
  if (r.delayed_steps < 0) fail_usage("fp8.delayed_steps = {} must not be negative", r.delayed_steps);
  p.delayed_steps = r.delayed_steps;
  p.rounded_activations = p.activations;
  p.rounded_gradients = p.gradients;
  p.rounded_activations.rule = p.rounded_gradients.rule = rounded;
}

}  // namespace

Precision make_precision(const PrecisionRecipe& r) {
  const auto base = choose<Base>("precision", r.precision,
                                 std::array{std::pair{"fp8", Base::kFp8}, std::pair{"bf16", Base::kBf16},
                                            std::pair{"fp32", Base::kFp32}, std::pair{"fp64", Base::kFp64}});
  Precision p = base == Base::kFp64 ? plain(r.precision, DType::kF64, DType::kF64, DType::kF64)  // the scalar truth, for tests
                : base == Base::kFp32 ? plain(r.precision, DType::kF32, DType::kF32, DType::kF32)
                                      : plain(r.precision, DType::kBF16, DType::kF32, DType::kBF16);
  Precision fp8 = p;
  add_fp8(fp8, r);  // checks the words in every precision
  if (base == Base::kFp8) p = fp8;
  const auto half_or_full = [](const char* key, const std::string& word, DType automatic) {
    return choose<DType>(
        key, word, std::array{std::pair{"auto", automatic}, std::pair{"bf16", DType::kBF16}, std::pair{"fp32", DType::kF32}});
  };
  const DType moments = half_or_full("moments", r.moments, p.moments);
  const DType residual = half_or_full("residual", r.residual, p.residual);
  if (base != Base::kFp64) p.moments = moments, p.residual = residual;
  return p;
}

PrecisionRecipe inference_formats(PrecisionRecipe recipe, const std::string& chosen) {
  if (!chosen.empty()) recipe.precision = chosen;
  recipe.activation_granularity = PrecisionRecipe().activation_granularity;
  recipe.delayed_steps = 0;
  return recipe;
}

Precision precision_from_name(std::string_view name) {
  PrecisionRecipe recipe;
  recipe.precision = name;
  return make_precision(recipe);
}

}  // namespace rorqual
