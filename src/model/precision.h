// The precision recipe: which number format each kind of tensor has (report §3.3; spec 2.1).
#pragma once

#include <string>
#include <string_view>

#include "tensor/scaled_tensor.h"

namespace rorqual {

// What a recipe file says of precision, as words. The keys of FP8 change nothing in the other precisions.
struct PrecisionRecipe {
  std::string precision = "fp8";
  std::string scales = "pow2";
  std::string moments = "auto";
  std::string residual = "auto";
  std::string activation_granularity = "group";
  std::string weight_granularity = "group";
  std::string gradient_granularity = "group";
  std::string gradient_format = "e4m3";
  std::string attention_cache = "e5m6";
  std::string swiglu_cache = "e4m3";
  int64_t delayed_steps = 0;
  bool operator==(const PrecisionRecipe&) const = default;
};

template <class R, class Visit>
void visit_precision_keys(R& r, Visit&& visit) {
  visit("precision", r.precision, "fp8 (report §3.3), bf16 (products with FP32 sums, FP32 master weights), fp32 or fp64");
  visit("scales", r.scales, "of FP8: pow2; report (powers of two only where the report says); fp32");
  visit("moments", r.moments, "of AdamW: bf16 or fp32; auto: bf16 for fp8 and bf16");
  visit("residual", r.residual, "the residual stream: bf16 or fp32; auto: bf16 for fp8 and bf16");
}
template <class R, class Visit>
void visit_fp8_keys(R& r, Visit&& visit) {
  visit("fp8.activation_granularity", r.activation_granularity, "values that share a scale: group (1×128) or tensor");
  visit("fp8.weight_granularity", r.weight_granularity, "group (128×128) or tensor");
  visit("fp8.gradient_granularity", r.gradient_granularity, "group (1×128), block (128×128) or tensor");
  visit("fp8.gradient_format", r.gradient_format, "e4m3 or e5m2");
  visit("fp8.attention_cache", r.attention_cache, "format in which backward finds the attention's output: e5m6 or bf16");
  visit("fp8.swiglu_cache", r.swiglu_cache, "format in which backward finds SwiGLU's input: e4m3 or bf16");
  visit("fp8.delayed_steps", r.delayed_steps, "with granularity tensor: scales from the last steps' values; 0: from their own");
}

struct Precision {
  std::string name;
  DType compute = DType::kBF16;   // attention, embedding's output, the head's operands; operands of linear layers if plain
  DType residual = DType::kBF16;  // the residual stream; sums into it are FP32, its gradient is of the full type
  DType full = DType::kF32;       // norms' weights, router, softmax, master weights, gradients
  DType payload = DType::kBF16;   // what combine sends of a node's sum
  DType moments = DType::kBF16;   // AdamW

  // Linear layers of the blocks: E4M3 in FP8, else as `compute`.
  DType operand = DType::kBF16;
  DType gradient = DType::kBF16;          // output gradients: E4M3 or E5M2
  DType attention_cache = DType::kBF16;   // the output projection's input, kept for backward: E5M6 or BF16
  DType swiglu_cache = DType::kBF16;      // E4M3 or BF16
  ScaleRule products = ScaleRule::kPow2;  // kPow2 if every operand's scales are powers of two
  Quantiser activations, weights, gradients;
  Quantiser rounded_activations, rounded_gradients;  // what dispatch sends and the attention's output: always powers of two
                                                     // but with scales = fp32

  int64_t delayed_steps = 0;

  bool is_fp8() const { return operand == DType::kE4M3; }
};

// Error (usage): a word that is none of the key's.
Precision make_precision(const PrecisionRecipe& recipe);
// One of the precisions with every other key at its default.
Precision precision_from_name(std::string_view name);
// What a model trained with `recipe` computes with when it only runs; `chosen` in place of its precision unless empty. Every
// row gets scales of its own, whatever the recipe says of activations, since no answer may depend on the rest of its batch.
PrecisionRecipe inference_formats(PrecisionRecipe recipe, const std::string& chosen);

}  // namespace rorqual
