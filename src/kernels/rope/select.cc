// RoPE: checks of arguments, the cut into tasks, the table of rows.
#include <array>

#include "kernels/common/partition.h"
#include "kernels/rope/kernels.h"

namespace rorqual {
namespace {

template <auto kRows>
void run(const RopeArgs& args, const Stream& stream) {
  CHECK(args.dim >= 0 && args.dim % 2 == 0, "{}", args.dim);
  CHECK(args.heads >= 0 && args.offset >= 0);
  CHECK(args.heads <= 1 || args.head_stride >= args.dim, "heads overlap: {} for {}", args.head_stride, args.dim);
  CHECK(args.heads == 0 || (args.heads - 1) * args.head_stride + args.offset + args.dim <= args.x.cols, "{} columns",
        args.x.cols);
  CHECK(args.table.cols == args.dim, "{} for {}", args.table.cols, args.dim);
  CHECK(args.table.dtype == (args.x.dtype == DType::kF64 ? DType::kF64 : DType::kF32), "{} for {}",
        dtype_name(args.table.dtype), dtype_name(args.x.dtype));
  for (int64_t t = 0; t < args.x.rows; ++t)
    CHECK(args.position[t] >= 0 && args.position[t] < args.table.rows, "position {} of row {}: the table has {}",
          args.position[t], t, args.table.rows);
  parallel_ranges(stream, args.x.rows, args.heads * args.dim * 2 * size_of(args.x.dtype),
                  [&](int64_t begin, int64_t end) { kRows(args, begin, end); });
}

std::string refuse_nothing(const RopeArgs&) {
  return {};
}
std::string refuse_f64(const RopeArgs& args) {
  return args.x.dtype == DType::kF64 ? "F64 belongs to the reference" : "";
}

}  // namespace

std::span<const KernelRow<RopeArgs>> rope_kernels() {
  static const std::array rows = {
      KernelRow<RopeArgs>{"avx512", Isa::kAvx512, refuse_f64, run<rope_avx512::rotate_rows>},
      KernelRow<RopeArgs>{"avx2", Isa::kAvx2, refuse_f64, run<rope_avx2::rotate_rows>},
      KernelRow<RopeArgs>{"reference", Isa::kReference, refuse_nothing, run<rope_reference::rotate_rows>},
  };
  return rows;
}

void rope(const RopeArgs& args, const Stream& stream) {
  run_best(rope_kernels(), args, stream);
}

}  // namespace rorqual
