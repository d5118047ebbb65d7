#include "model/ops.h"

namespace rorqual {
namespace {

bool has_scales(DType format) {
  return format == DType::kE4M3 || format == DType::kE5M2 || format == DType::kE5M6;
}

bool is_gradient(QuantisedTensor t) {
  return t >= QuantisedTensor::kMlpOutputGradient && t <= QuantisedTensor::kLatentGradient;
}

// The report asks for powers of two where values are sent, and where groups turn from 1×128 to 128×1 (§3.3.3).
bool is_rounded(QuantisedTensor t) {
  return t == QuantisedTensor::kMlpInput || t == QuantisedTensor::kMlpOutputGradient ||
         t == QuantisedTensor::kAttentionOutput || t == QuantisedTensor::kAttentionOutputCache;
}

// The operands of a product's segments, requantised along the rows: codes of all segments in one matrix, and each segment's
// scales behind those of the one before.
class ColumnOperand {
 public:
  ColumnOperand(Arena& arena, const ScaledTensor& x, DType format, int64_t segments)
      : x_(x),
        codes_(arena.tensor(MemoryClass::kScratch, format, x.rows(), x.cols())),
        // As many as any cut into segments can need, so that memory does not depend on the routing.
        scales_(arena.tensor(MemoryClass::kScratch, DType::kF32, x.rows() / kScaleGroup + segments, x.cols())) {}

  ScaledTensor add(const GradientSegment& segment, std::vector<RequantiseProblem>& problems) {
    const int64_t groups = scale_groups(segment.count);
    const ScaledTensor y(codes_.row_range(segment.begin, segment.count), scales_.row_range(groups_, groups),
                         ScaledTensor::Group::kColumn);
    groups_ += groups;
    problems.push_back({x_.row_range(segment.begin, segment.count), y});
    return y;
  }

 private:
  ScaledTensor x_;
  Tensor codes_, scales_;
  int64_t groups_ = 0;
};

}  // namespace

ScaledTensor scaled_tensor(Arena& arena, MemoryClass c, DType format, int64_t rows, int64_t cols) {
  const Tensor codes = arena.tensor(c, format, rows, cols);
  if (!has_scales(format)) return codes;
  return {codes, arena.tensor(c, DType::kF32, rows, scale_groups(cols))};
}

Quantiser quantiser_of(const Pass& p, const BlockState& s, QuantisedTensor tensor) {
  const Precision& precision = p.precision;
  Quantiser q = is_gradient(tensor) ? (is_rounded(tensor) ? precision.rounded_gradients : precision.gradients)
                                    : (is_rounded(tensor) ? precision.rounded_activations : precision.activations);
  if (p.ledger) q.statistics = p.ledger->at(s.layer, tensor);
  if (p.ledger && precision.delayed_steps > 0) q.amax = p.ledger->delayed_amax(s.layer, tensor);
  return q;
}

ScaledTensor quantised(const Pass& p, BlockState& s, Arena& arena, const Tensor& x, DType format, QuantisedTensor tensor) {
  const ScaledTensor y = scaled_tensor(arena, MemoryClass::kLinearInputs, format, x.rows, x.cols);
  if (y.is_plain())
    copy(p, x, y.codes);
  else
    quantise({x, y, quantiser_of(p, s, tensor)}, *p.stream);
  return y;
}

ScaledTensor as_operand(const Pass& p, BlockState& s, const Tensor& x, DType format, QuantisedTensor tensor) {
  if (x.dtype == format) return x;
  return quantised(p, s, *s.scratch, x, format, tensor);
}

Tensor plain(const Pass& p, Arena& arena, const ScaledTensor& x) {
  if (x.is_plain()) return x.codes;
  const Tensor y = compute_tensor(p, arena, x.rows(), x.cols());
  dequantise({x, y}, *p.stream);
  return y;
}

void add_weight_gradients(const Pass& p, BlockState& s, const std::vector<GradientProduct>& products) {
  std::vector<WeightGradientProblem> problems;
  std::vector<RequantiseProblem> activations, rounded_activations, gradients;
  for (const GradientProduct& product : products) {
    if (!p.precision.is_fp8()) {
      for (const GradientSegment& segment : product.segments)
        problems.push_back({product.a.row_range(segment.begin, segment.count),
                            product.b.row_range(segment.begin, segment.count), segment.gradient});
      continue;
    }
    const auto segments = static_cast<int64_t>(product.segments.size());
    ColumnOperand a(*s.scratch, product.a, p.precision.gradient, segments);
    ColumnOperand b(*s.scratch, product.b, DType::kE4M3, segments);
    auto& activation_list = product.b.dtype() == DType::kE5M6 ? rounded_activations : activations;
    for (const GradientSegment& segment : product.segments)
      problems.push_back({a.add(segment, gradients), b.add(segment, activation_list), segment.gradient});
  }
  if (p.precision.is_fp8()) {
    QuantiseStatistics* statistics = p.ledger ? p.ledger->at(s.layer, QuantisedTensor::kWeightGradientOperands) : nullptr;
    const auto requantise = [&](const std::vector<RequantiseProblem>& list, Quantiser quantiser) {
      quantiser.statistics = statistics;
      if (quantiser.granularity == Granularity::kBlock) quantiser.granularity = Granularity::kGroup;
      if (!list.empty()) requantise_columns({list, quantiser}, *p.stream);
    };
    requantise(gradients, p.precision.gradients);
    requantise(activations, p.precision.activations);
    requantise(rounded_activations, p.precision.rounded_activations);  // report §3.3.3
  }
  weight_gradient({problems, p.precision.products}, *p.stream);
}

}  // namespace rorqual
