// The sequence balance loss (spec 1.5): counts, the loss, and its derivative by the normalised scores.
#include <algorithm>
#include <numeric>

#include "kernels/router/kernels.h"

namespace rorqual {
namespace router {

std::vector<int64_t> count_by_sequence(const RouterShape& shape, const int32_t* expert, int64_t tokens,
                                       int64_t sequence_length) {
  std::vector<int64_t> count(static_cast<size_t>(tokens / sequence_length * shape.experts));
  for (int64_t t = 0; t < tokens; ++t) {
    int64_t* row = count.data() + t / sequence_length * shape.experts;
    for (int64_t k = 0; k < shape.top_k; ++k) ++row[expert[t * shape.top_k + k]];
  }
  return count;
}

namespace {

// f_i of a sequence per token counted.
double frequency_unit(const RouterShape& shape, int64_t sequence_length) {
  return static_cast<double>(shape.experts) / static_cast<double>(shape.top_k * sequence_length);
}

// Σ s_i and Σ count_i·s_i, in double: four sums each (i mod 4, ascending), then (0 + 1) + (2 + 3).
template <class T>
void sum_and_dot(const T* s, const int64_t* count, int64_t n, double& sum, double& dot) {
  double sums[4] = {}, dots[4] = {};
  const auto add = [&](int64_t i, int64_t lane) {
    sums[lane] += static_cast<double>(s[i]);
    dots[lane] += static_cast<double>(count[i]) * static_cast<double>(s[i]);
  };
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    add(i, 0);
    add(i + 1, 1);
    add(i + 2, 2);
    add(i + 3, 3);
  }
  for (int64_t lane = 0; i < n; ++i, ++lane) add(i, lane);
  sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  dot = (dots[0] + dots[1]) + (dots[2] + dots[3]);
}

// Σ_i f_i · mean_t s'_ti of one sequence, tokens ascending.
template <class T>
double sequence_loss(const RouterShape& shape, const Tensor& scores, int64_t begin, int64_t length, const int64_t* count) {
  const double unit = frequency_unit(shape, length);
  double loss = 0;
  for (int64_t t = begin; t < begin + length; ++t) {
    double sum = 0, dot = 0;
    sum_and_dot(scores.row<T>(t), count, shape.experts, sum, dot);
    loss += unit * dot / (sum + kTiny);
  }
  return loss / static_cast<double>(length);
}

}  // namespace

template <class T>
std::vector<T> balance_table(const RouterBackwardArgs& args) {
  if (args.balance_coefficient == 0) return {};
  const auto count = count_by_sequence(args.shape, args.expert, args.scores.rows, args.sequence_length);
  const double unit =
      args.balance_coefficient * frequency_unit(args.shape, args.sequence_length) / static_cast<double>(args.sequence_length);
  std::vector<T> table(count.size());
  for (size_t i = 0; i < count.size(); ++i) table[i] = static_cast<T>(unit * static_cast<double>(count[i]));
  return table;
}
template std::vector<float> balance_table<float>(const RouterBackwardArgs&);
template std::vector<double> balance_table<double>(const RouterBackwardArgs&);

}  // namespace router

RouterStatistics router_statistics(const RouterShape& shape, const Tensor& scores, const int32_t* expert,
                                   int64_t sequence_length, double coefficient, int64_t* load, const Stream& stream) {
  CHECK(sequence_length >= 1 && scores.rows % sequence_length == 0, "router: {} rows are not whole sequences of {}",
        scores.rows, sequence_length);
  CHECK(scores.cols == shape.experts, "router: {} scores per row, {} experts", scores.cols, shape.experts);
  const auto count = router::count_by_sequence(shape, expert, scores.rows, sequence_length);
  const int64_t sequences = scores.rows / sequence_length;
  for (int64_t q = 0; q < sequences; ++q)
    for (int64_t i = 0; i < shape.experts; ++i) load[i] += count[q * shape.experts + i];
  if (coefficient == 0) return {};
  std::vector<double> loss(static_cast<size_t>(sequences));
  const int64_t step = std::max<int64_t>(1, router::tokens_per_task(shape.experts) / sequence_length);
  stream.parallel((sequences + step - 1) / step, [&](int64_t task) {
    for (int64_t q = task * step; q < std::min(sequences, (task + 1) * step); ++q) {
      const int64_t* row = count.data() + q * shape.experts;
      loss[q] = scores.dtype == DType::kF64
                    ? router::sequence_loss<double>(shape, scores, q * sequence_length, sequence_length, row)
                    : router::sequence_loss<float>(shape, scores, q * sequence_length, sequence_length, row);
    }
  });
  return {coefficient * std::accumulate(loss.begin(), loss.end(), 0.0)};
}

}  // namespace rorqual
