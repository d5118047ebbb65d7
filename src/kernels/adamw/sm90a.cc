#include "kernels/adamw/sm90a.h"

#include <memory>

#include "kernels/adamw/kernels.h"
#include "kernels/adamw/sm90a_job.h"
#include "kernels/common/sm90a_host.h"

namespace rorqual {
namespace {

using namespace adamw_sm90a_detail;  // NOLINT: the job's types

bool has_copy(const AdamWTensor& t) {
  return t.copy || t.copy_transposed;
}
// Of the weight as a matrix.
int64_t output_channels(const AdamWTensor& t) {
  return t.copy ? t.copy.codes.rows : t.copy_transposed.codes.cols;
}
int64_t input_channels(const AdamWTensor& t) {
  return t.copy ? t.copy.codes.cols : t.copy_transposed.codes.rows;
}

void check_copy(const ScaledTensor& copy, int64_t rows, int64_t cols) {
  if (!copy) return;
  CHECK(copy.codes.rows == rows && copy.codes.cols == cols, "adamw: a copy [{}, {}] of [{}, {}]", copy.codes.rows,
        copy.codes.cols, rows, cols);
  CHECK(copy.scales && copy.scales.dtype == DType::kF32 && copy.scales.rows == scale_groups(rows) &&
            copy.scales.cols == scale_groups(cols),
        "adamw: scales [{}, {}] of [{}, {}]", copy.scales.rows, copy.scales.cols, rows, cols);
}

void check_tensor(const AdamWTensor& t) {
  const int64_t count = t.w.count();
  for (const Tensor& x : {t.w, t.g, t.m, t.v})
    CHECK(x.count() == count && x.contiguous(), "adamw: {} weights, a part has {}x{} stride {}", count, x.rows, x.cols,
          x.stride);
  if (!has_copy(t)) return;
  const int64_t n = output_channels(t), k = input_channels(t);
  CHECK(n * k == count, "adamw: a copy [{}, {}] of {} weights", n, k, count);
  check_copy(t.copy, n, k);
  check_copy(t.copy_transposed, k, n);
}

std::string refuse_copies(const AdamWTensor& t) {
  if (t.quantiser.granularity == Granularity::kTensor) return "one scale per tensor";
  if (t.quantiser.statistics != nullptr) return "statistics of a quantiser";
  for (const ScaledTensor& copy : {t.copy, t.copy_transposed})
    if (copy && copy.dtype() != DType::kE4M3) return "a copy that is not E4M3";
  if (output_channels(t) > INT32_MAX || input_channels(t) > INT32_MAX) return "a dimension beyond 2^31 - 1";
  if (input_channels(t) % 4 != 0) return "a coded weight whose rows are not multiples of 4";
  if (t.copy && !hopper::rows_aligned(t.copy.codes, 4)) return "rows of a copy are not 4-byte aligned";
  if (t.copy_transposed && (output_channels(t) % 16 != 0 || !hopper::rows_aligned(t.copy_transposed.codes, 16)))
    return "rows of a transposed copy are not multiples of 16 bytes";
  return {};
}

std::string refuse_tensor(const AdamWTensor& t) {
  if (t.w.dtype != DType::kF32 || t.g.dtype != DType::kF32) return "weights are not F32";
  for (const Tensor& x : {t.m, t.v})
    if (!hopper::is_f32_or_bf16(x.dtype)) return "moments are neither F32 nor BF16";
  for (const Tensor& x : {t.w, t.g, t.m, t.v})
    if (!hopper::rows_aligned(x.row_range(0, std::min<int64_t>(x.rows, 1)), 16)) return "a tensor is not 16-byte aligned";
  return has_copy(t) ? refuse_copies(t) : "";
}

Entry entry_of(const AdamWTensor& t, float keep, int first_block) {
  return {.w = t.w.ptr<float>(),
          .g = t.g.ptr<float>(),
          .m = t.m.data,
          .v = t.v.data,
          .count = t.w.count(),
          .keep = keep,
          .first_block = first_block,
          .m_bf16 = t.m.dtype == DType::kBF16,
          .v_bf16 = t.v.dtype == DType::kBF16};
}

void fill(Job& job, const AdamWTensor& t, float keep, int first_block) {
  job.entry[job.entries++] = entry_of(t, keep, first_block);
}
void fill(CodedJob& job, const AdamWTensor& t, float keep, int first_block) {
  const auto bytes = [](const ScaledTensor& x) { return x ? static_cast<uint8_t*>(x.codes.data) : nullptr; };
  const auto scales = [](const ScaledTensor& x) { return x ? x.scales.ptr<float>() : nullptr; };
  job.entry[job.entries++] = {.entry = entry_of(t, keep, first_block),
                              .n = static_cast<int>(output_channels(t)),
                              .k = static_cast<int>(input_channels(t)),
                              .codes = bytes(t.copy),
                              .scales = scales(t.copy),
                              .transposed = bytes(t.copy_transposed),
                              .transposed_scales = scales(t.copy_transposed),
                              .codes_stride = t.copy.codes.stride,
                              .scales_stride = t.copy.scales.stride,
                              .transposed_stride = t.copy_transposed.codes.stride,
                              .transposed_scales_stride = t.copy_transposed.scales.stride,
                              .rule = t.quantiser.rule};
}

int64_t blocks_of(const Job&, const AdamWTensor& t) {
  return (t.w.count() + kPieceElements - 1) / kPieceElements;
}
int64_t blocks_of(const CodedJob&, const AdamWTensor& t) {
  return scale_groups(output_channels(t)) * scale_groups(input_channels(t));
}

// The tensors with copies, or those without, in as many launches as their table needs.
template <class AnyJob, int kMost>
void launch_all(const AdamWArgs& args, const Stream& stream, bool coded) {
  const auto job = std::make_unique<AnyJob>();
  int64_t blocks = 0;
  const auto flush = [&] {
    if (job->entries > 0) launch(*job, static_cast<int>(blocks), stream.device_stream());
    job->entries = 0;
    blocks = 0;
  };
  for (const AdamWTensor& t : args.tensors) {
    const int64_t more = blocks_of(*job, t);
    if (has_copy(t) != coded || more == 0) continue;
    CHECK(more <= INT32_MAX, "adamw: {} weights in one tensor", t.w.count());
    if (job->entries == kMost || blocks + more > INT32_MAX) flush();
    const auto c = adamw_detail::coefficients<float>(args, t.decay);
    job->constants = {c.beta1, c.rest1, c.beta2, c.rest2, c.grad_scale, c.step_size, c.inverse_root_c2, c.eps};
    fill(*job, t, c.keep, static_cast<int>(blocks));
    blocks += more;
  }
  flush();
}

}  // namespace

std::string refuse_adamw_sm90a(const AdamWArgs& args) {
  for (const AdamWTensor& t : args.tensors)
    if (std::string why = refuse_tensor(t); !why.empty()) return why;
  return {};
}

void adamw_sm90a(const AdamWArgs& args, const Stream& stream) {
  CHECK(args.step >= 1, "adamw: step {} (the first is 1)", args.step);
  for (const AdamWTensor& t : args.tensors) check_tensor(t);
  const std::string refusal = refuse_adamw_sm90a(args);
  CHECK(refusal.empty(), "adamw: {}", refusal);
  launch_all<Job, kMostEntries>(args, stream, false);
  launch_all<CodedJob, kMostCodedEntries>(args, stream, true);
}

}  // namespace rorqual
