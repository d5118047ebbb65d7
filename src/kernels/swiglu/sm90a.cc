#include "kernels/swiglu/sm90a.h"

#include "kernels/common/sm90a_host.h"
#include "kernels/swiglu/sm90a_job.h"

namespace rorqual {
namespace {

using namespace hopper;               // NOLINT: what host sides share
using namespace swiglu_sm90a_detail;  // NOLINT: the jobs' types

void check_shapes(const Tensor& gate_up, const Tensor& h) {
  CHECK(gate_up.rows == h.rows && gate_up.cols == 2 * h.cols, "[{}, {}] for [{}, {}]", gate_up.rows, gate_up.cols, h.rows,
        h.cols);
}
void check_per_row(const Tensor& weight, const Tensor& gate_up) {
  CHECK(!weight || (weight.rows == 1 && weight.cols == gate_up.rows && weight.dtype == DType::kF32), "[{}, {}] {} for {} rows",
        weight.rows, weight.cols, dtype_name(weight.dtype), gate_up.rows);
}
void check_coded(const ScaledTensor& x) {
  if (is_coded(x.dtype())) check_rows_coded(x);
}

// Plain, or coded as `codes` allow. Rows of both halves begin where a piece does.
std::string refuse_matrix(const char* name, const ScaledTensor& x, bool e5m2) {
  if (!is_coded(x.dtype())) return refuse_plain(name, x.codes);
  if (x.dtype() == DType::kE4M3 || (e5m2 && x.dtype() == DType::kE5M2)) return refuse_rows(name, x.codes);
  return fmt::format("{} is {}", name, dtype_name(x.dtype()));
}
std::string refuse_width(int64_t width, int64_t rows, bool halves_are_quantised) {
  if (width % 8 != 0) return fmt::format("width {} is not a multiple of 8", width);
  if (halves_are_quantised && width % kScaleGroup != 0) return fmt::format("groups of width {} hold gate and up", width);
  return refuse_count(rows, width);
}

Rows rows_of(const ScaledTensor& x) {
  if (!is_coded(x.dtype())) return {.plain = plain_rows(x.codes)};
  return {.coded = coded_rows(x), .code = x.dtype() == DType::kE4M3 ? Code::kE4M3 : Code::kE5M2};
}

}  // namespace

std::string refuse_swiglu_forward_sm90a(const SwiGluForwardArgs& args) {
  return first_reason(
      refuse_width(args.h.cols(), args.h.rows(), static_cast<bool>(args.cache)), refuse_matrix("gate_up", args.gate_up, false),
      refuse_matrix("h", args.h, false), is_coded(args.h.dtype()) ? refuse_quantiser(args.quantiser) : "",
      args.cache ? refuse_matrix("cache", args.cache, false) : "", args.cache ? refuse_quantiser(args.cache_quantiser) : "");
}

void swiglu_forward_sm90a(const SwiGluForwardArgs& args, const Stream& stream) {
  check_taken(refuse_swiglu_forward_sm90a(args));
  check_shapes(args.gate_up.codes, args.h.codes);
  check_per_row(args.weight, args.gate_up.codes);
  check_coded(args.gate_up);
  check_coded(args.h);
  if (args.cache) {
    check_shapes(args.cache.codes, args.h.codes);
    check_rows_coded(args.cache);
    CHECK(!is_coded(args.gate_up.dtype()), "a cache of gate_up, which is one already");
  }
  if (args.h.codes.count() == 0) return;
  launch(ForwardJob{.rows = static_cast<int>(args.h.rows()),
                    .width = static_cast<int>(args.h.cols()),
                    .gate_up = rows_of(args.gate_up),
                    .h = rows_of(args.h),
                    .weight = args.weight ? args.weight.ptr<float>() : nullptr,
                    .rule = args.quantiser.rule,
                    .cache = coded_rows(args.cache),
                    .cache_rule = args.cache_quantiser.rule},
         stream.device_stream());
}

std::string refuse_swiglu_backward_sm90a(const SwiGluBackwardArgs& args) {
  const bool coded = is_coded(args.d_gate_up.dtype());
  return first_reason(refuse_width(args.d_h.cols, args.d_h.rows, coded), refuse_matrix("gate_up", args.gate_up, false),
                      refuse_plain("d_h", args.d_h), refuse_matrix("d_gate_up", args.d_gate_up, true),
                      coded ? refuse_quantiser(args.quantiser) : "");
}

void swiglu_backward_sm90a(const SwiGluBackwardArgs& args, const Stream& stream) {
  check_taken(refuse_swiglu_backward_sm90a(args));
  const Tensor &x = args.gate_up.codes, &d_x = args.d_gate_up.codes;
  check_shapes(x, args.d_h);
  check_shapes(d_x, args.d_h);
  check_per_row(args.weight, x);
  check_per_row(args.d_weight, x);
  check_coded(args.gate_up);
  check_coded(args.d_gate_up);
  CHECK(d_x.data != x.data || x.rows == 0 || (d_x.dtype == x.dtype && d_x.stride == x.stride && !is_coded(x.dtype)),
        "in place, but types or strides differ, or codes");
  if (x.rows == 0) return;
  launch(BackwardJob{.rows = static_cast<int>(x.rows),
                     .width = static_cast<int>(args.d_h.cols),
                     .gate_up = rows_of(args.gate_up),
                     .d_gate_up = rows_of(args.d_gate_up),
                     .d_h = plain_rows(args.d_h),
                     .weight = args.weight ? args.weight.ptr<float>() : nullptr,
                     .d_weight = args.d_weight ? args.d_weight.ptr<float>() : nullptr,
                     .rule = args.quantiser.rule},
         stream.device_stream());
}

}  // namespace rorqual
