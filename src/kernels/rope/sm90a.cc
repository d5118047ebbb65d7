#include "kernels/rope/sm90a.h"

#include "kernels/common/sm90a_host.h"
#include "kernels/rope/sm90a_job.h"

namespace rorqual {
namespace {

// Pieces of 16 bytes hold whole vectors of a head, as many in its first half as in its second.
bool is_aligned(const RopeArgs& a) {
  const int64_t piece = 16 / size_of(a.x.dtype);
  return hopper::rows_aligned(a.x, 16) && hopper::rows_aligned(a.table, 16) && a.offset % piece == 0 &&
         (a.heads <= 1 || a.head_stride % piece == 0) && a.dim % (2 * piece) == 0;
}

}  // namespace

std::string refuse_rope_sm90a(const RopeArgs& args) {
  if (!hopper::is_f32_or_bf16(args.x.dtype)) return "x is neither F32 nor BF16";
  return args.x.rows * args.heads * (args.dim / 2) <= INT32_MAX ? "" : "more than 2^31 - 1 pairs";
}

void rope_sm90a(const RopeArgs& args, const Stream& stream) {
  const std::string refusal = refuse_rope_sm90a(args);
  CHECK(refusal.empty(), "rope: {}", refusal);
  CHECK(args.dim >= 0 && args.dim % 2 == 0, "{}", args.dim);
  CHECK(args.heads >= 0 && args.offset >= 0);
  CHECK(args.heads <= 1 || args.head_stride >= args.dim, "heads overlap: {} for {}", args.head_stride, args.dim);
  CHECK(args.heads == 0 || (args.heads - 1) * args.head_stride + args.offset + args.dim <= args.x.cols, "{} columns",
        args.x.cols);
  CHECK(args.table.cols == args.dim, "{} for {}", args.table.cols, args.dim);
  CHECK(args.table.dtype == DType::kF32, "a table of {}", dtype_name(args.table.dtype));
  if (args.x.rows == 0 || args.heads == 0 || args.dim == 0) return;
  rope_sm90a_detail::launch({.x = args.x.raw_row(0) + bytes_of(args.x.dtype, args.offset),
                             .table = args.table.ptr<float>(),
                             .position = args.position,
                             .rows = args.x.rows,
                             .stride = args.x.stride,
                             .head_stride = args.head_stride,
                             .table_stride = args.table.stride,
                             .heads = static_cast<int>(args.heads),
                             .dim = static_cast<int>(args.dim),
                             .bf16 = args.x.dtype == DType::kBF16,
                             .interleaved = args.interleaved,
                             .inverse = args.inverse,
                             .aligned = is_aligned(args)},
                            stream.device_stream());
}

}  // namespace rorqual
