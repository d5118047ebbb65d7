#include "kernels/elementwise/sm90a.h"

#include "kernels/common/sm90a_host.h"
#include "kernels/elementwise/sm90a_job.h"

namespace rorqual {
namespace {

using namespace elementwise_sm90a_detail;  // NOLINT: their names say what they are
using hopper::first_reason;
using hopper::is_f32_or_bf16;
using hopper::plain_rows;
using hopper::refuse_plain;

// What rows of x and y are aligned to for a copy: 16, 4 or less.
int copy_alignment(const Tensor& x, const Tensor& y) {
  for (const int alignment : {16, 4})
    if (hopper::rows_aligned(x, alignment) && hopper::rows_aligned(y, alignment)) return alignment;
  return 1;
}
// A copy's pieces of 512 bytes or more.
std::string refuse_copy(const Tensor& x, const Tensor& y) {
  if (x.dtype == DType::kE5M6 || x.dtype == DType::kF64) return fmt::format("rows of {}", dtype_name(x.dtype));
  if (y.count() != 0 && copy_alignment(x, y) == 1) return "rows are not 4-byte aligned";
  return y.rows > 1 ? hopper::refuse_count(y.rows, bytes_of(y.dtype, y.cols)) : "";
}
// The elements of a contiguous tensor as one row.
Tensor flat(const Tensor& x) {
  return {x.data, x.dtype, 1, x.count()};
}

}  // namespace

// ---- convert

std::string refuse_convert_sm90a(const ConvertArgs& args) {
  const bool together = args.x.contiguous() && args.y.contiguous();
  const Tensor x = together ? flat(args.x) : args.x, y = together ? flat(args.y) : args.y;
  if (!is_f32_or_bf16(x.dtype)) return fmt::format("x is {}", dtype_name(x.dtype));
  if (!is_f32_or_bf16(y.dtype)) return fmt::format("y is {}", dtype_name(y.dtype));
  if (x.dtype == y.dtype && !args.accumulate) return refuse_copy(x, y);
  if (y.count() != 0 && !(hopper::rows_aligned(x, 16) && hopper::rows_aligned(y, 16))) return "rows are not 16-byte aligned";
  return together ? "" : hopper::refuse_count(y.rows, y.cols);
}

void convert_sm90a(const ConvertArgs& args, const Stream& stream) {
  hopper::check_taken(refuse_convert_sm90a(args));
  CHECK(args.x.rows == args.y.rows && args.x.cols == args.y.cols, "[{}, {}] to [{}, {}]", args.x.rows, args.x.cols, args.y.rows,
        args.y.cols);
  if (args.x.count() == 0) return;
  const bool together = args.x.contiguous() && args.y.contiguous();
  const Tensor x = together ? flat(args.x) : args.x, y = together ? flat(args.y) : args.y;
  if (x.dtype == y.dtype && !args.accumulate)
    return launch_copy({.x = static_cast<const uint8_t*>(x.data),
                        .y = static_cast<uint8_t*>(y.data),
                        .x_row_bytes = bytes_of(x.dtype, x.stride),
                        .y_row_bytes = bytes_of(y.dtype, y.stride),
                        .rows = static_cast<int>(y.rows),
                        .bytes = bytes_of(y.dtype, y.cols)},
                       copy_alignment(x, y), stream.device_stream());
  launch_convert(
      {.x = plain_rows(x), .y = plain_rows(y), .rows = static_cast<int>(y.rows), .cols = y.cols, .accumulate = args.accumulate},
      stream.device_stream());
}

// ---- gather

std::string refuse_gather_rows_sm90a(const GatherRowsArgs& args) {
  if (args.x.dtype == args.y.dtype) return refuse_copy(args.x, args.y);
  return first_reason(refuse_plain("x", args.x), refuse_plain("y", args.y), hopper::refuse_count(args.y.rows, args.y.cols));
}

void gather_rows_sm90a(const GatherRowsArgs& args, const Stream& stream) {
  hopper::check_taken(refuse_gather_rows_sm90a(args));
  const Tensor &x = args.x, &y = args.y;
  CHECK(x.cols == y.cols, "{} columns to {}", x.cols, y.cols);
  if (y.count() == 0) return;
  if (x.dtype == y.dtype)
    return launch_copy({.x = static_cast<const uint8_t*>(x.data),
                        .y = static_cast<uint8_t*>(y.data),
                        .x_row_bytes = bytes_of(x.dtype, x.stride),
                        .y_row_bytes = bytes_of(y.dtype, y.stride),
                        .source = args.source,
                        .rows = static_cast<int>(y.rows),
                        .bytes = bytes_of(y.dtype, y.cols)},
                       copy_alignment(x, y), stream.device_stream());
  launch_convert(
      {.x = plain_rows(x), .y = plain_rows(y), .source = args.source, .rows = static_cast<int>(y.rows), .cols = y.cols},
      stream.device_stream());
}

// ---- combine

std::string refuse_combine_rows_sm90a(const CombineRowsArgs& args) {
  if (!is_f32_or_bf16(args.payload)) return fmt::format("payload is {}", dtype_name(args.payload));
  return first_reason(refuse_plain("x", args.x), refuse_plain("y", args.y), args.base ? refuse_plain("base", args.base) : "",
                      args.top_k > 32 ? "more than 32 rows a token" : "", hopper::refuse_count(args.y.rows, args.y.cols));
}

void combine_rows_sm90a(const CombineRowsArgs& args, const Stream& stream) {
  hopper::check_taken(refuse_combine_rows_sm90a(args));
  const Tensor &x = args.x, &y = args.y;
  CHECK(x.cols == y.cols, "{} columns to {}", x.cols, y.cols);
  CHECK(!args.base || (args.base.rows == y.rows && args.base.cols == y.cols), "base [{}, {}] for [{}, {}]", args.base.rows,
        args.base.cols, y.rows, y.cols);
  CHECK(args.base.data != y.data || !args.base || (args.base.dtype == y.dtype && args.base.stride == y.stride),
        "in place, but types or strides differ");
  CHECK(args.top_k >= 0, "{}", args.top_k);
  if (y.count() == 0) return;
  launch_combine({.x = plain_rows(x),
                  .base = plain_rows(args.base),
                  .y = plain_rows(y),
                  .row = args.row,
                  .node = args.node,
                  .top_k = static_cast<int>(args.top_k),
                  .payload_bf16 = args.payload == DType::kBF16,
                  .rows = static_cast<int>(y.rows),
                  .cols = static_cast<int>(y.cols)},
                 stream.device_stream());
}

}  // namespace rorqual
