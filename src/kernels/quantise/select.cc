// Quantising: checks of arguments, the cut into tasks, the tables of rows.
#include <algorithm>
#include <array>

#include "kernels/common/quantise_rows.h"
#include "kernels/quantise/quantise.h"

namespace rorqual {
namespace {

void check_same_shape(const ScaledTensor& x, const ScaledTensor& y) {
  CHECK(x.rows() == y.rows() && x.cols() == y.cols(), "[{}, {}] to [{}, {}]", x.rows(), x.cols(), y.rows(), y.cols());
}
void check_plain(DType type) {
  CHECK(type == DType::kF32 || type == DType::kBF16 || type == DType::kF64, "{} is no plain type", dtype_name(type));
}

QuantiseShape shape_of(const Tensor& x, int64_t bytes_written) {
  return {.rows = x.rows, .cols = x.cols, .source = x.dtype, .bytes_per_row = row_bytes(x.dtype, x.cols) + bytes_written};
}

template <const QuantiseKernels& kKernels>
void run_quantise(const QuantiseArgs& args, const Stream& stream) {
  check_same_shape(args.x, args.y);
  check_plain(args.x.dtype);
  check_rows_coded(args.y);
  const auto values = [&](int64_t t, int64_t, int64_t) -> const void* { return args.x.raw_row(t); };
  quantise_rows(kKernels, stream, shape_of(args.x, row_bytes(args.y.dtype(), args.x.cols)), args.quantiser,
                [&] { return row_task(values, args.y); });
}

template <const QuantiseKernels& kKernels>
void run_dispatch(const QuantiseDispatchArgs& args, const Stream& stream) {
  const Tensor& x = args.x;
  CHECK(x.cols == args.y.cols(), "{} columns to {}", x.cols, args.y.cols());
  check_plain(x.dtype);
  check_rows_coded(args.y);
  if (args.own) {
    check_same_shape(x, args.own);
    check_rows_coded(args.own);
    CHECK(args.own.dtype() == args.y.dtype(), "own {}, rows {}", dtype_name(args.own.dtype()), dtype_name(args.y.dtype()));
  }
  CHECK(args.top_k >= 0, "{}", args.top_k);
  for (int64_t i = 0; i < x.rows * args.top_k; ++i)
    CHECK(args.row_of_choice[i] < args.y.rows(), "row {} of {}", args.row_of_choice[i], args.y.rows());
  const int64_t bytes = row_bytes(args.y.dtype(), x.cols), groups = scale_groups(x.cols);
  quantise_rows(kKernels, stream, shape_of(x, (args.top_k + 1) * bytes), args.quantiser, [&] {
    ScaledTensor row = args.own;
    if (!row) {  // one row of the thread's, written over and over
      auto* scratch = static_cast<std::byte*>(thread_scratch(0, bytes + 64 + groups * static_cast<int64_t>(sizeof(float))));
      row = {Tensor(scratch, args.y.dtype(), x.rows, x.cols, 0),
             Tensor(scratch + (bytes + 63) / 64 * 64, DType::kF32, x.rows, groups, 0)};
    }
    const auto values = [&](int64_t t, int64_t, int64_t) -> const void* { return x.raw_row(t); };
    const auto copy = [&args, row, bytes, groups](int64_t t) {
      for (int64_t j = 0; j < args.top_k; ++j) {
        const int32_t to = args.row_of_choice[t * args.top_k + j];
        if (to < 0) continue;
        std::memcpy(args.y.codes.raw_row(to), row.codes.raw_row(t), static_cast<size_t>(bytes));
        std::memcpy(args.y.scales.raw_row(to), row.scales.raw_row(t), static_cast<size_t>(groups) * sizeof(float));
      }
    };
    return row_task(values, row, copy);
  });
}

template <const QuantiseKernels& kKernels>
void run_dequantise(const DequantiseArgs& args, const Stream& stream) {
  const ScaledTensor& x = args.x;
  check_same_shape(x, args.y);
  check_rows_coded(x);
  check_plain(args.y.dtype);
  if (x.cols() == 0) return;
  const int64_t bytes = row_bytes(x.dtype(), x.cols()) + row_bytes(args.y.dtype, x.cols());
  parallel_ranges(stream, x.rows(), bytes, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      kKernels.dequantise({.codes = x.codes.raw_row(t),
                           .type = x.dtype(),
                           .scales = x.scales.row<float>(t),
                           .n = x.cols(),
                           .y = args.y.raw_row(t),
                           .y_type = args.y.dtype});
  });
}

// ---- columns

// Columns whose 128 rows fill 128 KiB, so that rows are read as long pieces and the second pass over a block finds it in the
// second-level cache.
int64_t strip_of(DType x_type) {
  switch (x_type) {
    case DType::kF64:
    case DType::kF32:
      return 256;
    case DType::kBF16:
    case DType::kE5M6:
      return 512;
    default:
      return kLargestStrip;
  }
}

void check_problem(const RequantiseProblem& problem) {
  const ScaledTensor &x = problem.x, &y = problem.y;
  check_same_shape(x, y);
  if (is_coded(x.dtype()))
    check_rows_coded(x);
  else
    check_plain(x.dtype());
  CHECK(y.dtype() == DType::kE4M3 || y.dtype() == DType::kE5M2, "to {}", dtype_name(y.dtype()));
  CHECK(y.group == ScaledTensor::Group::kColumn, "to groups of a row");
  CHECK(y.codes.count() == 0 ||
            (y.scales && y.scales.rows == scale_groups(y.rows()) && y.scales.cols == y.cols() && y.scales.dtype == DType::kF32),
        "scales [{}, {}] for [{}, {}]", y.scales.rows, y.scales.cols, y.rows(), y.cols());
}

ColumnBlock block_of(const RequantiseProblem& problem, int64_t group, int64_t column, int64_t cols, ScaleRule rule) {
  const ScaledTensor &x = problem.x, &y = problem.y;
  const int64_t row = group * kScaleGroup;
  const bool coded = is_coded(x.dtype());
  return {.x = x.codes.raw_row(row) + bytes_of(x.dtype(), column),
          .x_type = x.dtype(),
          .x_stride = bytes_of(x.dtype(), x.codes.stride),
          .x_scales = coded ? x.scales.row<float>(row) + column / kScaleGroup : nullptr,
          .x_scales_stride = coded ? x.scales.stride : 0,
          .rows = std::min(kScaleGroup, x.rows() - row),
          .cols = cols,
          .rule = rule,
          .type = y.dtype(),
          .codes = reinterpret_cast<uint8_t*>(y.codes.raw_row(row)) + column,
          .codes_stride = y.codes.stride,
          .scales = y.scales.row<float>(group) + column,
          .counts = nullptr,
          .next = column + cols < x.cols()       ? x.codes.raw_row(row) + bytes_of(x.dtype(), column + cols)
                  : row + kScaleGroup < x.rows() ? x.codes.raw_row(row + kScaleGroup)
                                                 : nullptr,
          .past_caches = goes_past_caches(y.codes)};
}

constexpr int64_t kTaskCols = 1024;

// Pieces of up to 128 rows and kTaskCols columns of all problems, numbered in order.
class Pieces {
 public:
  struct Piece {
    const RequantiseProblem* problem;
    int64_t group, column, cols;
  };
  explicit Pieces(std::span<const RequantiseProblem> problems) : problems_(problems) {
    for (const RequantiseProblem& problem : problems) {
      check_problem(problem);
      begin_.push_back(count_);
      count_ += scale_groups(problem.x.rows()) * across(problem);
    }
  }
  int64_t count() const { return count_; }
  Piece at(int64_t piece) const {
    const auto after = std::upper_bound(begin_.begin(), begin_.end(), piece);
    const size_t index = static_cast<size_t>(after - begin_.begin()) - 1;
    const RequantiseProblem& problem = problems_[index];
    const int64_t local = piece - begin_[index], column = local % across(problem) * kTaskCols;
    return {&problem, local / across(problem), column, std::min(kTaskCols, problem.x.cols() - column)};
  }

 private:
  static int64_t across(const RequantiseProblem& problem) { return (problem.x.cols() + kTaskCols - 1) / kTaskCols; }

  std::span<const RequantiseProblem> problems_;
  std::vector<int64_t> begin_;
  int64_t count_ = 0;
};

// Calls body(problem, group, column, columns) for the strips of a piece, none narrower than `least` but the last.
template <class Body>
void for_strips(const Pieces::Piece& piece, int64_t least, const Body& body) {
  const int64_t strip = std::max(least, strip_of(piece.problem->x.dtype())), end = piece.column + piece.cols;
  for (int64_t c = piece.column; c < end; c += strip) body(*piece.problem, piece.group, c, std::min(strip, end - c));
}

// The largest of `own` over each 128 columns, for all of them.
void share_blocks(const uint32_t* own, int64_t cols, uint32_t* used) {
  for (int64_t c = 0; c < cols; c += kScaleGroup) {
    const int64_t end = std::min(cols, c + kScaleGroup);
    std::fill(used + c, used + end, *std::max_element(own + c, own + end));
  }
}

// Per-tensor codes need no new scale.
void copy_strip(const RequantiseProblem& problem, int64_t group, int64_t column, int64_t cols) {
  const ScaledTensor &x = problem.x, &y = problem.y;
  const int64_t begin = group * kScaleGroup, rows = std::min(kScaleGroup, x.rows() - begin);
  for (int64_t r = begin; r < begin + rows; ++r)
    std::memcpy(y.codes.raw_row(r) + column, x.codes.raw_row(r) + column, static_cast<size_t>(cols));
  for (int64_t c = column; c < column + cols; c += kScaleGroup) {
    uint32_t bits = 0;  // the rows' scale, or NaN if a row has one
    for (int64_t r = begin; r < begin + rows; ++r)
      bits = std::max(bits, std::bit_cast<uint32_t>(x.scales.row<float>(r)[c / kScaleGroup]));
    float* scales = y.scales.row<float>(group);
    std::fill(scales + c, scales + std::min(column + cols, c + kScaleGroup), std::bit_cast<float>(bits));
  }
}

using ColumnAmaxes = std::array<uint32_t, kLargestStrip>;

// The largest magnitude in all problems, in bits.
template <const QuantiseKernels& kKernels>
uint32_t amax_of_problems(const Pieces& pieces, const Stream& stream) {
  std::vector<uint32_t> largest(static_cast<size_t>(pieces.count()), 0);
  stream.parallel(pieces.count(), [&](int64_t task) {
    for_strips(pieces.at(task), 1, [&](const RequantiseProblem& problem, int64_t group, int64_t c, int64_t n) {
      ColumnAmaxes own;
      kKernels.column_amax(block_of(problem, group, c, n, ScaleRule::kPow2), own.data());
      uint32_t& mine = largest[static_cast<size_t>(task)];
      mine = std::max(mine, *std::max_element(own.begin(), own.begin() + n));
    });
  });
  return largest.empty() ? 0 : *std::max_element(largest.begin(), largest.end());
}

template <const QuantiseKernels& kKernels>
void requantise_strip(ColumnBlock block, const Quantiser& quantiser, uint32_t shared, QuantiseCounts* counts) {
  block.counts = counts;
  ColumnAmaxes own, used;
  kKernels.column_amax(block, own.data());
  if (quantiser.granularity == Granularity::kTensor)
    std::fill(used.begin(), used.begin() + block.cols, shared);
  else if (quantiser.granularity == Granularity::kBlock)
    share_blocks(own.data(), block.cols, used.data());
  else
    std::copy(own.begin(), own.begin() + block.cols, used.begin());
  kKernels.columns(block, own.data(), used.data());
}

template <const QuantiseKernels& kKernels>
void run_requantise(const RequantiseColumnsArgs& args, const Stream& stream) {
  const Pieces pieces(args.problems);
  const Quantiser& quantiser = args.quantiser;
  const bool tensor = quantiser.granularity == Granularity::kTensor;
  const auto keeps_codes = [&](const RequantiseProblem& p) { return tensor && p.x.dtype() == p.y.dtype(); };
  uint32_t shared = 0;
  if (tensor && !std::all_of(args.problems.begin(), args.problems.end(), keeps_codes))
    shared = quantiser.amax > 0 ? std::bit_cast<uint32_t>(quantiser.amax) : amax_of_problems<kKernels>(pieces, stream);
  const int64_t least = quantiser.granularity == Granularity::kBlock ? kScaleGroup : 1;
  stream.parallel(pieces.count(), [&](int64_t task) {
    QuantiseCounts counts;
    for_strips(pieces.at(task), least, [&](const RequantiseProblem& problem, int64_t group, int64_t c, int64_t n) {
      if (keeps_codes(problem)) return copy_strip(problem, group, c, n);
      requantise_strip<kKernels>(block_of(problem, group, c, n, quantiser.rule), quantiser, shared,
                                 quantiser.statistics != nullptr ? &counts : nullptr);
    });
    order_stores_past_caches();
    if (quantiser.statistics != nullptr) quantiser.statistics->merge(counts);
  });
}

// ---- tables

template <class Args>
std::string refuse_nothing(const Args&) {
  return {};
}
template <class Args>
std::string refuse_f64(const Args& args) {
  bool any = false;
  if constexpr (requires { args.problems; }) {
    for (const RequantiseProblem& problem : args.problems) any = any || problem.x.dtype() == DType::kF64;
  } else if constexpr (requires { args.y.codes; }) {
    any = args.x.dtype == DType::kF64;
  } else {
    any = args.y.dtype == DType::kF64;
  }
  return any ? "F64 belongs to the reference" : "";
}

}  // namespace

std::span<const KernelRow<QuantiseArgs>> quantise_kernels() {
  static const std::array rows = {
      KernelRow<QuantiseArgs>{"avx512", Isa::kAvx512, refuse_f64, run_quantise<kQuantiseAvx512>},
      KernelRow<QuantiseArgs>{"avx2", Isa::kAvx2, refuse_f64, run_quantise<kQuantiseAvx2>},
      KernelRow<QuantiseArgs>{"reference", Isa::kReference, refuse_nothing, run_quantise<kQuantiseReference>},
  };
  return rows;
}
std::span<const KernelRow<QuantiseDispatchArgs>> quantise_dispatch_kernels() {
  static const std::array rows = {
      KernelRow<QuantiseDispatchArgs>{"avx512", Isa::kAvx512, refuse_f64, run_dispatch<kQuantiseAvx512>},
      KernelRow<QuantiseDispatchArgs>{"avx2", Isa::kAvx2, refuse_f64, run_dispatch<kQuantiseAvx2>},
      KernelRow<QuantiseDispatchArgs>{"reference", Isa::kReference, refuse_nothing, run_dispatch<kQuantiseReference>},
  };
  return rows;
}
std::span<const KernelRow<DequantiseArgs>> dequantise_kernels() {
  static const std::array rows = {
      KernelRow<DequantiseArgs>{"avx512", Isa::kAvx512, refuse_f64, run_dequantise<kQuantiseAvx512>},
      KernelRow<DequantiseArgs>{"avx2", Isa::kAvx2, refuse_f64, run_dequantise<kQuantiseAvx2>},
      KernelRow<DequantiseArgs>{"reference", Isa::kReference, refuse_nothing, run_dequantise<kQuantiseReference>},
  };
  return rows;
}
std::span<const KernelRow<RequantiseColumnsArgs>> requantise_columns_kernels() {
  static const std::array rows = {
      KernelRow<RequantiseColumnsArgs>{"avx512", Isa::kAvx512, refuse_f64, run_requantise<kQuantiseAvx512>},
      KernelRow<RequantiseColumnsArgs>{"avx2", Isa::kAvx2, refuse_f64, run_requantise<kQuantiseAvx2>},
      KernelRow<RequantiseColumnsArgs>{"reference", Isa::kReference, refuse_nothing, run_requantise<kQuantiseReference>},
  };
  return rows;
}

void quantise(const QuantiseArgs& args, const Stream& stream) {
  run_best(quantise_kernels(), args, stream);
}
void quantise_dispatch(const QuantiseDispatchArgs& args, const Stream& stream) {
  run_best(quantise_dispatch_kernels(), args, stream);
}
void dequantise(const DequantiseArgs& args, const Stream& stream) {
  run_best(dequantise_kernels(), args, stream);
}
void requantise_columns(const RequantiseColumnsArgs& args, const Stream& stream) {
  run_best(requantise_columns_kernels(), args, stream);
}

}  // namespace rorqual
