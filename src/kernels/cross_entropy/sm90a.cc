#include "kernels/cross_entropy/sm90a.h"

#include "hopper/runtime.h"
#include "kernels/common/sm90a_host.h"
#include "kernels/cross_entropy/sm90a_job.h"

namespace rorqual {
namespace {

bool is_vector(const Tensor& x, int64_t count) {
  return x && x.dtype == DType::kF32 && x.count() == count && x.contiguous();
}

void check_arguments(const CrossEntropyArgs& a) {
  const int64_t rows = a.logits.rows, vocabulary = a.logits.cols;
  CHECK(vocabulary >= 1, "cross_entropy: logits are {}x{}", rows, vocabulary);
  CHECK(is_vector(a.nll, rows), "cross_entropy: nll is {}x{} {}, wanted {} F32", a.nll.rows, a.nll.cols,
        dtype_name(a.nll.dtype), rows);
  if (!a.d_logits) return;
  CHECK(is_vector(a.coefficient, rows), "cross_entropy: a gradient needs {} coefficients in F32", rows);
  CHECK(a.d_logits.rows == rows && a.d_logits.cols == vocabulary, "cross_entropy: d_logits is {}x{}, logits {}x{}",
        a.d_logits.rows, a.d_logits.cols, rows, vocabulary);
  CHECK(a.d_logits.data != a.logits.data || (a.d_logits.dtype == a.logits.dtype && a.d_logits.stride == a.logits.stride),
        "cross_entropy: in place, but types or strides differ");
}

}  // namespace

std::string refuse_cross_entropy_sm90a(const CrossEntropyArgs& args) {
  if (!hopper::is_f32_or_bf16(args.logits.dtype)) return "logits are neither F32 nor BF16";
  if (args.d_logits && !hopper::is_f32_or_bf16(args.d_logits.dtype)) return "d_logits are neither F32 nor BF16";
  if (args.nll.dtype != DType::kF32 || (args.d_logits && args.coefficient.dtype != DType::kF32)) return "vectors are not F32";
  if (args.logits.cols > INT32_MAX || args.logits.rows > INT32_MAX / 2) return "a dimension beyond 2^31";
  if (!hopper::rows_aligned(args.logits, 16)) return "rows of logits are not 16-byte aligned";
  if (args.d_logits && !hopper::rows_aligned(args.d_logits, 16)) return "rows of d_logits are not 16-byte aligned";
  return {};
}

void cross_entropy_sm90a(const CrossEntropyArgs& args, const Stream& stream) {
  if (args.logits.rows == 0) return;
  const std::string refusal = refuse_cross_entropy_sm90a(args);
  CHECK(refusal.empty(), "cross_entropy: {}", refusal);
  check_arguments(args);
  const cross_entropy_sm90a_detail::Job job{.logits = args.logits.data,
                                            .target = args.target,
                                            .coefficient = args.d_logits ? args.coefficient.ptr<float>() : nullptr,
                                            .nll = args.nll.ptr<float>(),
                                            .d_logits = args.d_logits.data,
                                            .stride = args.logits.stride,
                                            .d_stride = args.d_logits.stride,
                                            .rows = static_cast<int>(args.logits.rows),
                                            .vocabulary = static_cast<int>(args.logits.cols),
                                            .bf16 = args.logits.dtype == DType::kBF16,
                                            .d_bf16 = args.d_logits.dtype == DType::kBF16};
  launch(job, hopper::device_info().multiprocessors, stream.device_stream());
}

}  // namespace rorqual
