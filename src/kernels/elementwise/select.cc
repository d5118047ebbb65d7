// The passes over memory: checks of arguments, the cut into tasks, the tables of rows.
#include <array>
#include <cstring>
#include <vector>

#include "kernels/common/partition.h"
#include "kernels/elementwise/kernels.h"

namespace rorqual {
namespace {

// y = x or y += x for n elements; a copy within one type keeps every bit.
template <const ElementwiseKernels& kKernels>
void convert_span(const void* x, DType x_type, void* y, DType y_type, int64_t n, bool accumulate) {
  if (x_type == y_type && !accumulate)
    std::memcpy(y, x, static_cast<size_t>(n * size_of(x_type)));
  else
    kKernels.convert(x, x_type, y, y_type, n, accumulate);
}

bool is_plain(DType type) {
  return type == DType::kF32 || type == DType::kBF16 || type == DType::kF64;
}

constexpr int64_t kSpanGranule = 64;  // spans start at a multiple, so that vectors of a task share no cache line with another's

template <const ElementwiseKernels& kKernels>
void run_convert(const ConvertArgs& args, const Stream& stream) {
  const Tensor &x = args.x, &y = args.y;
  CHECK(x.rows == y.rows && x.cols == y.cols, "[{}, {}] to [{}, {}]", x.rows, x.cols, y.rows, y.cols);
  if (x.count() == 0) return;
  const int64_t element = size_of(x.dtype) + size_of(y.dtype) * (args.accumulate ? 2 : 1);
  if (x.contiguous() && y.contiguous()) {
    const auto span = [&](int64_t begin, int64_t end) {
      convert_span<kKernels>(x.raw_row(0) + begin * size_of(x.dtype), x.dtype, y.raw_row(0) + begin * size_of(y.dtype), y.dtype,
                             end - begin, args.accumulate);
    };
    return parallel_ranges(stream, x.count(), element, span, kSpanGranule);
  }
  parallel_ranges(stream, x.rows, x.cols * element, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      convert_span<kKernels>(x.raw_row(t), x.dtype, y.raw_row(t), y.dtype, x.cols, args.accumulate);
  });
}

template <const ElementwiseKernels& kKernels>
void run_gather(const GatherRowsArgs& args, const Stream& stream) {
  const Tensor &x = args.x, &y = args.y;
  CHECK(x.cols == y.cols, "{} columns to {}", x.cols, y.cols);
  CHECK(x.dtype == y.dtype || (is_plain(x.dtype) && is_plain(y.dtype)), "{} to {}", dtype_name(x.dtype), dtype_name(y.dtype));
  if (y.count() == 0) return;
  for (int64_t t = 0; t < y.rows; ++t) CHECK(args.source[t] < x.rows, "row {} of {}", args.source[t], x.rows);
  parallel_ranges(stream, y.rows, y.cols * (size_of(x.dtype) + size_of(y.dtype)), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      if (args.source[t] >= 0) convert_span<kKernels>(x.raw_row(args.source[t]), x.dtype, y.raw_row(t), y.dtype, y.cols, false);
  });
}

template <const ElementwiseKernels& kKernels>
void run_combine(const CombineRowsArgs& args, const Stream& stream) {
  const Tensor &x = args.x, &y = args.y;
  CHECK(x.cols == y.cols, "{} columns to {}", x.cols, y.cols);
  CHECK(!args.base || (args.base.rows == y.rows && args.base.cols == y.cols), "base [{}, {}] for [{}, {}]", args.base.rows,
        args.base.cols, y.rows, y.cols);
  CHECK(args.base.data != y.data || !args.base || (args.base.dtype == y.dtype && args.base.stride == y.stride),
        "in place, but types or strides differ");
  CHECK(args.top_k >= 0, "{}", args.top_k);
  for (int64_t i = 0; i < y.rows * args.top_k; ++i) {
    CHECK(args.row[i] >= 0 && args.row[i] < x.rows, "row {} of {}", args.row[i], x.rows);
    CHECK(i % args.top_k == 0 || args.node[i] >= args.node[i - 1], "node {} after {}", args.node[i], args.node[i - 1]);
  }
  const int64_t bytes = y.cols * (args.top_k * size_of(x.dtype) + 2 * size_of(y.dtype));
  parallel_ranges(stream, y.rows, bytes, [&](int64_t begin, int64_t end) { kKernels.combine(args, begin, end); });
}

template <class Args>
std::string refuse_nothing(const Args&) {
  return {};
}
template <class Args>
std::string refuse_f64(const Args& args) {
  bool any = args.x.dtype == DType::kF64 || args.y.dtype == DType::kF64;
  if constexpr (requires { args.base; })
    any = any || args.payload == DType::kF64 || (args.base && args.base.dtype == DType::kF64);
  return any ? "F64 belongs to the reference" : "";
}

// The table of an operation from its function on each instruction set, best first.
template <class Args>
std::array<KernelRow<Args>, 3> table(void (*avx512)(const Args&, const Stream&), void (*avx2)(const Args&, const Stream&),
                                     void (*reference)(const Args&, const Stream&)) {
  return {{{"avx512", Isa::kAvx512, refuse_f64, avx512},
           {"avx2", Isa::kAvx2, refuse_f64, avx2},
           {"reference", Isa::kReference, refuse_nothing, reference}}};
}

// For the passes that give equal bits whatever runs them, and so have no table.
const ElementwiseKernels& best_kernels() {
  switch (allowed_isa()) {
    case Isa::kReference:
      return kElementwiseReference;
    case Isa::kAvx2:
      return kElementwiseAvx2;
    default:
      return kElementwiseAvx512;
  }
}

void check_pass(const Tensor& x) {
  CHECK(x.contiguous(), "rows of {} lie {} apart", x.cols, x.stride);
  CHECK(x.dtype == DType::kF32 || x.dtype == DType::kF64, "{}", dtype_name(x.dtype));
}
void check_pair(const Tensor& a, const Tensor& b) {
  check_pass(a);
  check_pass(b);
  CHECK(a.dtype == b.dtype && a.count() == b.count(), "{} of {} and {} of {}", a.count(), dtype_name(a.dtype), b.count(),
        dtype_name(b.dtype));
}

// Adds neighbours, then neighbours of those, …; an odd last one goes up a level as it is.
double pairwise_sum(double* values, int64_t n) {
  if (n == 0) return 0;
  for (; n > 1; n = (n + 1) / 2) {
    for (int64_t i = 0; i < n / 2; ++i) values[i] = values[2 * i] + values[2 * i + 1];
    if (n % 2 == 1) values[n / 2] = values[n - 1];
  }
  return values[0];
}

}  // namespace

std::span<const KernelRow<ConvertArgs>> convert_kernels() {
  static const auto rows =
      table<ConvertArgs>(run_convert<kElementwiseAvx512>, run_convert<kElementwiseAvx2>, run_convert<kElementwiseReference>);
  return rows;
}
std::span<const KernelRow<GatherRowsArgs>> gather_rows_kernels() {
  static const auto rows =
      table<GatherRowsArgs>(run_gather<kElementwiseAvx512>, run_gather<kElementwiseAvx2>, run_gather<kElementwiseReference>);
  return rows;
}
std::span<const KernelRow<CombineRowsArgs>> combine_rows_kernels() {
  static const auto rows = table<CombineRowsArgs>(run_combine<kElementwiseAvx512>, run_combine<kElementwiseAvx2>,
                                                  run_combine<kElementwiseReference>);
  return rows;
}

void convert(const ConvertArgs& args, const Stream& stream) {
  run_best(convert_kernels(), args, stream);
}
void gather_rows(const GatherRowsArgs& args, const Stream& stream) {
  run_best(gather_rows_kernels(), args, stream);
}
void combine_rows(const CombineRowsArgs& args, const Stream& stream) {
  run_best(combine_rows_kernels(), args, stream);
}

double squared_norm(const Tensor& x, const Stream& stream) {
  check_pass(x);
  const ElementwiseKernels& kernels = best_kernels();
  const int64_t blocks = (x.count() + kSquaresBlock - 1) / kSquaresBlock;
  std::vector<double> sums(static_cast<size_t>(blocks));
  parallel_ranges(stream, blocks, kSquaresBlock * size_of(x.dtype), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t n = std::min(kSquaresBlock, x.count() - b * kSquaresBlock);
      double lanes[kSquaresLanes];
      if (x.dtype == DType::kF32)
        kernels.squares_f32(x.ptr<float>() + b * kSquaresBlock, n, lanes);
      else
        squares_f64(x.ptr<double>() + b * kSquaresBlock, n, lanes);
      sums[static_cast<size_t>(b)] = pairwise_sum(lanes, kSquaresLanes);
    }
  });
  return pairwise_sum(sums.data(), blocks);
}

void scale(const Tensor& x, double factor, const Stream& stream) {
  check_pass(x);
  const ElementwiseKernels& kernels = best_kernels();
  parallel_ranges(
      stream, x.count(), 2 * size_of(x.dtype),
      [&](int64_t begin, int64_t end) {
        if (x.dtype == DType::kF32) return kernels.scale_f32(x.ptr<float>() + begin, end - begin, static_cast<float>(factor));
        for (int64_t i = begin; i < end; ++i) x.ptr<double>()[i] *= factor;
      },
      kSpanGranule);
}

void add_into(const Tensor& a, const Tensor& b, const Stream& stream) {
  check_pair(a, b);
  const ElementwiseKernels& kernels = best_kernels();
  parallel_ranges(
      stream, a.count(), 3 * size_of(a.dtype),
      [&](int64_t begin, int64_t end) {
        if (a.dtype == DType::kF32) return kernels.add_f32(a.ptr<float>() + begin, b.ptr<float>() + begin, end - begin);
        for (int64_t i = begin; i < end; ++i) a.ptr<double>()[i] += b.ptr<double>()[i];
      },
      kSpanGranule);
}

void ema_update(const Tensor& ema, const Tensor& x, double decay, const Stream& stream) {
  check_pair(ema, x);
  const ElementwiseKernels& kernels = best_kernels();
  const double rest = 1 - decay;
  parallel_ranges(
      stream, x.count(), 3 * size_of(x.dtype),
      [&](int64_t begin, int64_t end) {
        if (x.dtype == DType::kF32)
          return kernels.ema_f32(ema.ptr<float>() + begin, x.ptr<float>() + begin, end - begin, static_cast<float>(decay),
                                 static_cast<float>(rest));
        for (int64_t i = begin; i < end; ++i) ema.ptr<double>()[i] = decay * ema.ptr<double>()[i] + rest * x.ptr<double>()[i];
      },
      kSpanGranule);
}

}  // namespace rorqual
