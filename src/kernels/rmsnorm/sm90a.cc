#include "kernels/rmsnorm/sm90a.h"

#include "kernels/common/sm90a_host.h"
#include "kernels/rmsnorm/sm90a_job.h"

namespace rorqual {
namespace {

using namespace rmsnorm_sm90a_detail;  // NOLINT: their names say what they are
using hopper::coded_rows;
using hopper::first_reason;
using hopper::plain_rows;
using hopper::refuse_plain;

void check_shapes(const Tensor& a, const Tensor& b) {
  CHECK(a.rows == b.rows && a.cols == b.cols, "[{}, {}] and [{}, {}]", a.rows, a.cols, b.rows, b.cols);
}
void check_weight(const Tensor& w, const Tensor& x) {
  CHECK(w.rows == 1 && w.cols == x.cols && w.dtype == DType::kF32, "[{}, {}] {} for {} columns", w.rows, w.cols,
        dtype_name(w.dtype), x.cols);
}
std::string refuse_width(const Tensor& x) {
  return x.cols > kMostColumns ? fmt::format("{} columns, more than {}", x.cols, kMostColumns) : "";
}

}  // namespace

std::string refuse_rmsnorm_forward_sm90a(const RmsNormForwardArgs& args) {
  const bool coded = is_coded(args.y.dtype());
  if (coded && args.y.dtype() != DType::kE4M3) return fmt::format("y is {}", dtype_name(args.y.dtype()));
  return first_reason(refuse_width(args.x), refuse_plain("x", args.x), refuse_plain("w", args.w),
                      coded ? hopper::refuse_codes("y", args.y) : refuse_plain("y", args.y.codes),
                      coded ? hopper::refuse_quantiser(args.quantiser) : "",
                      args.y_plain ? refuse_plain("y_plain", args.y_plain) : "");
}

void rmsnorm_forward_sm90a(const RmsNormForwardArgs& args, const Stream& stream) {
  hopper::check_taken(refuse_rmsnorm_forward_sm90a(args));
  check_shapes(args.x, args.y.codes);
  if (args.y_plain) check_shapes(args.x, args.y_plain);
  check_weight(args.w, args.x);
  const bool coded = is_coded(args.y.dtype());
  if (coded) check_rows_coded(args.y);
  if (args.x.count() == 0) return;
  ForwardJob job{.x = plain_rows(args.x),
                 .w = args.w.ptr<float>(),
                 .eps = static_cast<float>(args.eps),
                 .rows = static_cast<int>(args.x.rows),
                 .cols = static_cast<int>(args.x.cols),
                 .y_plain = plain_rows(args.y_plain)};
  if (coded)
    job.codes = coded_rows(args.y);
  else
    job.y = plain_rows(args.y.codes);
  launch_forward(job, args.quantiser.rule, stream.device_stream());
}

std::string refuse_rmsnorm_input_gradient_sm90a(const RmsNormInputGradientArgs& args) {
  return first_reason(refuse_width(args.x), refuse_plain("x", args.x), refuse_plain("w", args.w), refuse_plain("d_y", args.d_y),
                      refuse_plain("d_x", args.d_x));
}

void rmsnorm_input_gradient_sm90a(const RmsNormInputGradientArgs& args, const Stream& stream) {
  hopper::check_taken(refuse_rmsnorm_input_gradient_sm90a(args));
  check_shapes(args.x, args.d_y);
  check_shapes(args.x, args.d_x);
  check_weight(args.w, args.x);
  if (args.x.count() == 0) return;
  launch_input_gradient({.x = plain_rows(args.x),
                         .d_y = plain_rows(args.d_y),
                         .d_x = plain_rows(args.d_x),
                         .w = args.w.ptr<float>(),
                         .eps = static_cast<float>(args.eps),
                         .rows = static_cast<int>(args.x.rows),
                         .cols = static_cast<int>(args.x.cols),
                         .accumulate = args.accumulate},
                        stream.device_stream());
}

int64_t rmsnorm_weight_gradient_sm90a_scratch(int64_t rows, int64_t d) {
  return rows + (rows + kBlockRows - 1) / kBlockRows * d;
}

std::string refuse_rmsnorm_weight_gradient_sm90a(const RmsNormWeightGradientArgs& args) {
  const int64_t needed = rmsnorm_weight_gradient_sm90a_scratch(args.x.rows, args.x.cols);
  const Tensor& scratch = args.scratch;
  const bool enough =
      args.x.count() == 0 || (scratch && scratch.dtype == DType::kF32 && scratch.contiguous() && scratch.count() >= needed);
  return first_reason(refuse_width(args.x), refuse_plain("x", args.x), refuse_plain("d_y", args.d_y),
                      refuse_plain("d_w", args.d_w), enough ? "" : fmt::format("scratch is not {} F32 elements", needed));
}

void rmsnorm_weight_gradient_sm90a(const RmsNormWeightGradientArgs& args, const Stream& stream) {
  hopper::check_taken(refuse_rmsnorm_weight_gradient_sm90a(args));
  check_shapes(args.x, args.d_y);
  check_weight(args.d_w, args.x);
  if (args.x.count() == 0) return;
  auto* scratch = args.scratch.ptr<float>();
  launch_weight_gradient({.x = plain_rows(args.x),
                          .d_y = plain_rows(args.d_y),
                          .d_w = args.d_w.ptr<float>(),
                          .inverse_rms = scratch,
                          .sums = scratch + args.x.rows,
                          .eps = static_cast<float>(args.eps),
                          .rows = static_cast<int>(args.x.rows),
                          .cols = static_cast<int>(args.x.cols)},
                         stream.device_stream());
}

}  // namespace rorqual
