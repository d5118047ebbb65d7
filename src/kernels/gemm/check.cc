#include "kernels/gemm/check.h"

namespace rorqual::gemm {
namespace {

bool is_fp8(DType dtype) {
  return dtype == DType::kE4M3 || dtype == DType::kE5M2;
}
bool is_operand(DType dtype) {
  return is_fp8(dtype) || dtype == DType::kF64 || dtype == DType::kF32 || dtype == DType::kBF16;
}
// The other side's type beside `a`.
DType partner(DType a) {
  return is_fp8(a) ? DType::kE4M3 : a;
}
bool aligned(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % 64 == 0;
}

void check_accumulator(const char* op, const Accumulator& accumulator, DType operands) {
  CHECK(accumulator == Accumulator{} || is_fp8(operands), "{}: another accumulator than FP32 is for FP8, operands are {}", op,
        dtype_name(operands));
}

// FP8 codes have a scale per group of 128 along `group`, plain operands none. A tensor without rows may lack memory for both.
void check_scales(const char* op, const ScaledTensor& t, ScaledTensor::Group group) {
  if (!is_fp8(t.dtype())) {
    CHECK(t.is_plain(), "{}: {} with scales", op, dtype_name(t.dtype()));
    return;
  }
  if (t.codes.count() == 0) return;
  const bool rows = group == ScaledTensor::Group::kRow;
  CHECK(t.group == group && !t.is_plain(), "{}: {} needs scales per {}", op, dtype_name(t.dtype()),
        rows ? "128 of a row" : "128 of a column");
  const int64_t want_rows = rows ? t.rows() : scale_groups(t.rows()), want_cols = rows ? scale_groups(t.cols()) : t.cols();
  CHECK(t.scales.dtype == DType::kF32 && t.scales.rows == want_rows && t.scales.cols == want_cols,
        "{}: codes [{}, {}] need F32 scales [{}, {}], not {} [{}, {}]", op, t.rows(), t.cols(), want_rows, want_cols,
        dtype_name(t.scales.dtype), t.scales.rows, t.scales.cols);
}

void check_packed(const PackWeightArgs& args, const PackedWeight& w, int64_t n, int64_t k) {
  if (!w) return;
  CHECK(w.n == n && w.k == k, "pack_weights: [{}, {}] into n = {}, k = {}", n, k, w.n, w.k);
  CHECK(aligned(w.data), "pack_weights: packed data not aligned to 64 bytes");
  const DType from = args.source.dtype;
  CHECK(from == DType::kF64 || from == DType::kF32 || from == DType::kBF16, "pack_weights: source is {}", dtype_name(from));
  CHECK(w.dtype == DType::kE4M3 || w.dtype == DType::kF64 || w.dtype == DType::kF32 || w.dtype == DType::kBF16,
        "pack_weights: into {}", dtype_name(w.dtype));
  CHECK(w.dtype != DType::kE4M3 || w.scale != nullptr || n * k == 0, "pack_weights: E4M3 without memory for scales");
}

}  // namespace

void check(const LinearArgs& args) {
  if (args.problems.empty()) return;
  const LinearProblem& first = args.problems.front();
  const DType operands = first.a.dtype(), out = first.c.dtype;
  CHECK(is_operand(operands), "linear: operands are {}", dtype_name(operands));
  const bool narrow = is_fp8(operands) || operands == DType::kBF16;
  CHECK(narrow ? out == DType::kBF16 || out == DType::kF32 : out == operands, "linear: {} operands into {}",
        dtype_name(operands), dtype_name(out));
  check_accumulator("linear", args.accumulator, operands);
  for (const LinearProblem& p : args.problems) {
    CHECK(p.a.dtype() == operands && p.b.dtype == partner(operands) && p.c.dtype == out,
          "linear: {} · {} into {}, the first is {} into {}", dtype_name(p.a.dtype()), dtype_name(p.b.dtype),
          dtype_name(p.c.dtype), dtype_name(operands), dtype_name(out));
    CHECK(p.a.cols() == p.b.k && p.c.rows == p.a.rows() && p.c.cols == p.b.n, "linear: [{}, {}] · [{}, {}]ᵀ into [{}, {}]",
          p.a.rows(), p.a.cols(), p.b.n, p.b.k, p.c.rows, p.c.cols);
    CHECK(p.b.layout == PackedWeight::Layout::kPanels && p.rows_in_use == nullptr,
          "linear: a weight in rows, or a count in device memory: those are a GPU's");
    CHECK(aligned(p.b.data), "linear: packed weight not aligned to 64 bytes");
    check_scales("linear", p.a, ScaledTensor::Group::kRow);
    CHECK(!is_fp8(operands) || p.b.scale != nullptr || p.b.n * p.b.k == 0, "linear: an E4M3 weight without scales");
  }
}

void check(const WeightGradientArgs& args) {
  if (args.problems.empty()) return;
  const DType operands = args.problems.front().a.dtype();
  CHECK(is_operand(operands), "weight_gradient: operands are {}", dtype_name(operands));
  check_accumulator("weight_gradient", args.accumulator, operands);
  const DType out = operands == DType::kF64 ? DType::kF64 : DType::kF32;
  for (const WeightGradientProblem& p : args.problems) {
    CHECK(p.a.dtype() == operands && p.b.dtype() == partner(operands) && p.c.dtype == out, "weight_gradient: {}ᵀ · {} into {}",
          dtype_name(p.a.dtype()), dtype_name(p.b.dtype()), dtype_name(p.c.dtype));
    CHECK(p.a.rows() == p.b.rows() && p.c.rows == p.a.cols() && p.c.cols == p.b.cols() && p.c.contiguous(),
          "weight_gradient: [{}, {}]ᵀ · [{}, {}] into [{}, {}], stride {}", p.a.rows(), p.a.cols(), p.b.rows(), p.b.cols(),
          p.c.rows, p.c.cols, p.c.stride);
    check_scales("weight_gradient", p.a, ScaledTensor::Group::kColumn);
    check_scales("weight_gradient", p.b, ScaledTensor::Group::kColumn);
  }
}

void check(const PackWeightArgs& args) {
  check_packed(args, args.packed, args.source.rows, args.source.cols);
  check_packed(args, args.transposed, args.source.cols, args.source.rows);
  CHECK(!args.packed || !args.transposed || (args.packed.dtype == DType::kE4M3) == (args.transposed.dtype == DType::kE4M3),
        "pack_weights: one copy is E4M3, the other is not");
}

}  // namespace rorqual::gemm
