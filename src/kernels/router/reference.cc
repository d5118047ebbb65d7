// Scalar truth of the router. Sums over all experts run in ascending order in double.
#include <algorithm>
#include <cmath>

#include "kernels/router/kernels.h"
#include "kernels/router/selection.h"

namespace rorqual::router {
namespace {

template <class T>
void score_row(const T* logits, int64_t n, ScoreFunction function, T* scores) {
  if (function == ScoreFunction::kSigmoid) {
    for (int64_t i = 0; i < n; ++i) scores[i] = T{1} / (T{1} + std::exp(-logits[i]));
    return;
  }
  T max = logits[0];
  double sum = 0;
  for (int64_t i = 1; i < n; ++i) max = std::max(max, logits[i]);
  for (int64_t i = 0; i < n; ++i) sum += scores[i] = std::exp(logits[i] - max);
  for (int64_t i = 0; i < n; ++i) scores[i] /= static_cast<T>(sum);
}

template <class T>
void forward_rows(const RouterForwardArgs& a, int64_t begin, int64_t end) {
  ExpertChooser<T> chooser(a.shape);
  const T* bias = a.bias ? a.bias.ptr<T>() : nullptr;
  for (int64_t t = begin; t < end; ++t) {
    T* scores = a.scores.row<T>(t);
    int32_t* expert = a.expert + t * a.shape.top_k;
    score_row(a.logits.row<T>(t), a.shape.experts, a.shape.score, scores);
    chooser.choose(scores, bias, expert);
    routing_weights(a.shape, scores, expert, a.weight.row<T>(t));
  }
}

// ds = d loss / d score of one token, from the routing weights and the balance loss.
template <class T>
void score_gradient(const RouterShape& shape, const T* s, const T* balance, const int32_t* expert, const T* d_weight, T* ds) {
  const int64_t n = shape.experts;
  if (balance) {
    double sum = kTiny, dot = 0;
    for (int64_t i = 0; i < n; ++i) sum += s[i];
    for (int64_t i = 0; i < n; ++i) dot += static_cast<double>(balance[i]) * s[i];
    const T mean = static_cast<T>(dot / sum), inverse = static_cast<T>(1 / sum);
    for (int64_t i = 0; i < n; ++i) ds[i] = (balance[i] - mean) * inverse;
  } else {
    std::fill_n(ds, n, T{0});
  }
  T sum = 0, dot = 0;
  for (int64_t k = 0; k < shape.top_k; ++k) {
    sum += s[expert[k]];
    dot += d_weight[k] * s[expert[k]];
  }
  sum += static_cast<T>(kTiny);
  const T scale = static_cast<T>(shape.scale);
  for (int64_t k = 0; k < shape.top_k; ++k)
    ds[expert[k]] += scale * (shape.normalise ? (d_weight[k] - dot / sum) / sum : d_weight[k]);
}

template <class T>
void backward_rows(const RouterBackwardArgs& a, const std::vector<T>& table, int64_t begin, int64_t end) {
  const int64_t n = a.shape.experts;
  for (int64_t t = begin; t < end; ++t) {
    const T* s = a.scores.row<T>(t);
    T* d = a.d_logits.row<T>(t);
    const T* balance = table.empty() ? nullptr : table.data() + t / a.sequence_length * n;
    score_gradient(a.shape, s, balance, a.expert + t * a.shape.top_k, a.d_weight.row<T>(t), d);
    if (a.shape.score == ScoreFunction::kSigmoid) {
      for (int64_t i = 0; i < n; ++i) d[i] *= s[i] * (T{1} - s[i]);
    } else {
      double dot = 0;
      for (int64_t i = 0; i < n; ++i) dot += static_cast<double>(d[i]) * s[i];
      for (int64_t i = 0; i < n; ++i) d[i] = s[i] * (d[i] - static_cast<T>(dot));
    }
  }
}

}  // namespace

void forward_reference(const RouterForwardArgs& args, const Stream& stream) {
  const int64_t tokens = args.logits.rows, step = tokens_per_task(args.shape.experts);
  stream.parallel((tokens + step - 1) / step, [&](int64_t task) {
    const int64_t begin = task * step, end = std::min(tokens, begin + step);
    args.logits.dtype == DType::kF64 ? forward_rows<double>(args, begin, end) : forward_rows<float>(args, begin, end);
  });
}

template <class T>
static void backward(const RouterBackwardArgs& args, const Stream& stream) {
  const int64_t tokens = args.scores.rows, step = tokens_per_task(args.shape.experts);
  const std::vector<T> table = balance_table<T>(args);
  stream.parallel((tokens + step - 1) / step,
                  [&](int64_t task) { backward_rows<T>(args, table, task * step, std::min(tokens, (task + 1) * step)); });
}

void backward_reference(const RouterBackwardArgs& args, const Stream& stream) {
  args.scores.dtype == DType::kF64 ? backward<double>(args, stream) : backward<float>(args, stream);
}

}  // namespace rorqual::router
