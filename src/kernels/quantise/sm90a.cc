#include "kernels/quantise/sm90a.h"

#include "kernels/common/quantise_rows.h"
#include "kernels/common/sm90a_host.h"
#include "kernels/quantise/sm90a_job.h"

namespace rorqual {
namespace {

using namespace quantise_sm90a_detail;  // NOLINT: their names say what they are
using hopper::first_reason;

Format format_of(DType type) {
  switch (type) {
    case DType::kF32:
      return Format::kF32;
    case DType::kBF16:
      return Format::kBF16;
    case DType::kE4M3:
      return Format::kE4M3;
    case DType::kE5M2:
      return Format::kE5M2;
    case DType::kE5M6:
      return Format::kE5M6;
    default:
      CHECK(false, "no format for {}", dtype_name(type));
  }
}

void check_same_shape(const ScaledTensor& x, const ScaledTensor& y) {
  CHECK(x.rows() == y.rows() && x.cols() == y.cols(), "[{}, {}] to [{}, {}]", x.rows(), x.cols(), y.rows(), y.cols());
}

}  // namespace

// ---- rows

std::string refuse_quantise_sm90a(const QuantiseArgs& args) {
  return first_reason(hopper::refuse_quantiser(args.quantiser), hopper::refuse_plain("x", args.x),
                      hopper::refuse_codes("y", args.y), hopper::refuse_count(args.x.rows, args.x.cols));
}

void quantise_sm90a(const QuantiseArgs& args, const Stream& stream) {
  hopper::check_taken(refuse_quantise_sm90a(args));
  check_same_shape(args.x, args.y);
  check_rows_coded(args.y);
  if (args.x.count() == 0) return;
  const QuantiseJob job{.x = args.x.data,
                        .x_stride = args.x.stride,
                        .rows = static_cast<int>(args.x.rows),
                        .cols = static_cast<int>(args.x.cols),
                        .own = hopper::coded_rows(args.y)};
  launch_quantise(job, format_of(args.x.dtype), format_of(args.y.dtype()), args.quantiser.rule, stream.device_stream());
}

std::string refuse_quantise_dispatch_sm90a(const QuantiseDispatchArgs& args) {
  return first_reason(hopper::refuse_quantiser(args.quantiser), hopper::refuse_plain("x", args.x),
                      hopper::refuse_codes("y", args.y), args.own ? hopper::refuse_codes("own", args.own) : "",
                      args.top_k > 32 ? "more than 32 choices" : "", hopper::refuse_count(args.x.rows, args.x.cols));
}

void quantise_dispatch_sm90a(const QuantiseDispatchArgs& args, const Stream& stream) {
  hopper::check_taken(refuse_quantise_dispatch_sm90a(args));
  CHECK(args.x.cols == args.y.cols(), "{} columns to {}", args.x.cols, args.y.cols());
  check_rows_coded(args.y);
  CHECK(args.top_k >= 0, "{}", args.top_k);
  if (args.own) {
    check_same_shape(args.x, args.own);
    check_rows_coded(args.own);
    CHECK(args.own.dtype() == args.y.dtype(), "own {}, rows {}", dtype_name(args.own.dtype()), dtype_name(args.y.dtype()));
  }
  if (args.x.count() == 0) return;
  const QuantiseJob job{.x = args.x.data,
                        .x_stride = args.x.stride,
                        .rows = static_cast<int>(args.x.rows),
                        .cols = static_cast<int>(args.x.cols),
                        .own = hopper::coded_rows(args.own),
                        .y = hopper::coded_rows(args.y),
                        .row_of_choice = args.row_of_choice,
                        .top_k = static_cast<int>(args.top_k)};
  launch_quantise(job, format_of(args.x.dtype), format_of(args.y.dtype()), args.quantiser.rule, stream.device_stream());
}

std::string refuse_dequantise_sm90a(const DequantiseArgs& args) {
  return first_reason(hopper::refuse_codes("x", args.x), hopper::refuse_plain("y", args.y),
                      hopper::refuse_count(args.y.rows, args.y.cols));
}

void dequantise_sm90a(const DequantiseArgs& args, const Stream& stream) {
  hopper::check_taken(refuse_dequantise_sm90a(args));
  check_same_shape(args.x, args.y);
  check_rows_coded(args.x);
  if (args.y.count() == 0) return;
  const DequantiseJob job{.x = hopper::coded_rows(args.x),
                          .y = args.y.data,
                          .y_stride = args.y.stride,
                          .rows = static_cast<int>(args.y.rows),
                          .cols = static_cast<int>(args.y.cols)};
  launch_dequantise(job, format_of(args.x.dtype()), format_of(args.y.dtype), stream.device_stream());
}

// ---- columns

namespace {

std::string refuse_problem(const RequantiseProblem& problem, const RequantiseProblem& first) {
  const ScaledTensor &x = problem.x, &y = problem.y;
  if (x.dtype() != first.x.dtype() || y.dtype() != first.y.dtype() || y.group != first.y.group)
    return "problems of different types";
  if (!hopper::is_f32_or_bf16(x.dtype()) && x.dtype() != DType::kE4M3 && x.dtype() != DType::kE5M6)
    return fmt::format("x is {}", dtype_name(x.dtype()));
  if (y.dtype() != DType::kE4M3 && y.dtype() != DType::kE5M2) return fmt::format("y is {}", dtype_name(y.dtype()));
  return first_reason(hopper::refuse_rows("x", x.codes, x.dtype() == DType::kE5M6 ? 8 : 16), hopper::refuse_rows("y", y.codes));
}

void check_problem(const RequantiseProblem& problem) {
  const ScaledTensor &x = problem.x, &y = problem.y;
  check_same_shape(x, y);
  if (is_coded(x.dtype())) check_rows_coded(x);
  CHECK(y.group != ScaledTensor::Group::kRow, "to groups of a row");
  CHECK(y.codes.count() == 0 ||
            (y.scales && y.scales.rows == scale_groups(y.rows()) && y.scales.cols == y.cols() && y.scales.dtype == DType::kF32),
        "scales [{}, {}] for [{}, {}]", y.scales.rows, y.scales.cols, y.rows(), y.cols());
}

ColumnProblem column_problem(const RequantiseProblem& problem, int first_tile) {
  const ScaledTensor &x = problem.x, &y = problem.y;
  const bool coded = is_coded(x.dtype());
  return {.x = static_cast<const uint8_t*>(x.codes.data),
          .x_row_bytes = bytes_of(x.dtype(), x.codes.stride),
          .x_scales = coded ? x.scales.ptr<float>() : nullptr,
          .x_scales_stride = coded ? x.scales.stride : 0,
          .codes = static_cast<uint8_t*>(y.codes.data),
          .codes_stride = y.codes.stride,
          .scales = y.scales.ptr<float>(),
          .scales_stride = y.scales.stride,
          .rows = static_cast<int>(x.rows()),
          .cols = static_cast<int>(x.cols()),
          .first_tile = first_tile};
}

}  // namespace

std::string refuse_requantise_columns_sm90a(const RequantiseColumnsArgs& args) {
  std::string refused = hopper::refuse_quantiser(args.quantiser);
  for (const RequantiseProblem& problem : args.problems)
    refused = first_reason(refused, refuse_problem(problem, args.problems.front()));
  return refused;
}

void requantise_columns_sm90a(const RequantiseColumnsArgs& args, const Stream& stream) {
  hopper::check_taken(refuse_requantise_columns_sm90a(args));
  for (const RequantiseProblem& problem : args.problems) check_problem(problem);
  if (args.problems.empty()) return;
  const ScaledTensor &x = args.problems.front().x, &y = args.problems.front().y;
  ColumnsJob job;
  job.transposed = y.is_transposed();
  const auto launch = [&] {
    if (job.count > 0)
      launch_columns(job, format_of(x.dtype()), format_of(y.dtype()), args.quantiser.rule, stream.device_stream());
    job.count = job.tiles = 0;
  };
  for (const RequantiseProblem& problem : args.problems) {
    const int64_t tiles = scale_groups(problem.x.rows()) * scale_groups(problem.x.cols());
    if (tiles == 0) continue;
    constexpr int64_t kMostTiles = int64_t{1} << 30;
    CHECK(tiles <= kMostTiles, "[{}, {}] is too much for one call", problem.x.rows(), problem.x.cols());
    if (job.count == kMostProblems || job.tiles + tiles > kMostTiles) launch();
    job.problems[job.count++] = column_problem(problem, job.tiles);
    job.tiles += static_cast<int>(tiles);
  }
  launch();
}

}  // namespace rorqual
