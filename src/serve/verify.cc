#include "serve/verify.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"

namespace rorqual {
namespace {

double log_sum_exp(std::span<const double> x) {
  const double largest = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (const double v : x) sum += std::exp(v - largest);
  return largest + std::log(sum);
}

int64_t top(std::span<const double> x) {
  return std::max_element(x.begin(), x.end()) - x.begin();
}

void check_finite(std::span<const double> x, int64_t position, const char* which) {
  if (!std::all_of(x.begin(), x.end(), [](double v) { return std::isfinite(v); }))
    fail("the {} model has logits that are not finite after token {}", which, position);
}

void compare_position(std::span<const double> a, std::span<const double> b, VerifyResult& result) {
  const double norm_a = log_sum_exp(a), norm_b = log_sum_exp(b);
  double sum = 0, kl = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(a[i] - b[i]);
    result.largest_difference = std::max(result.largest_difference, difference);
    result.largest_logit = std::max(result.largest_logit, std::abs(a[i]));
    sum += difference;
    kl += std::exp(a[i] - norm_a) * ((a[i] - norm_a) - (b[i] - norm_b));
  }
  result.mean_difference += sum / static_cast<double>(a.size());
  result.mean_kl += std::max(kl, 0.0);
  result.same_top_token += top(a) == top(b);
  ++result.tokens;
}

}  // namespace

LogitsOf logits_of(const Model& model, Workspace& work, const Stream& stream) {
  return [&model, &work, &stream](std::span<const int32_t> ids) {
    MicroBatch batch{1, static_cast<int64_t>(ids.size()), {ids.begin(), ids.end()}, {}};
    batch.tokens.push_back(batch.tokens.back());  // the token behind the text, which logits do not depend on
    return model.logits(batch, work, stream);
  };
}

VerifyResult verify_logits(const LogitsOf& a, const LogitsOf& b, int64_t vocab_size, std::span<const int32_t> ids,
                           int64_t window) {
  const auto vocabulary = static_cast<size_t>(vocab_size);
  CHECK(window > 0 && !ids.empty());
  VerifyResult result;
  for (size_t begin = 0; begin < ids.size(); begin += static_cast<size_t>(window)) {
    const size_t n = std::min(static_cast<size_t>(window), ids.size() - begin);
    const std::vector<double> x = a(ids.subspan(begin, n)), y = b(ids.subspan(begin, n));
    CHECK(x.size() == n * vocabulary && y.size() == x.size());
    for (size_t i = 0; i < n; ++i) {
      const auto row = [&](const std::vector<double>& logits) { return std::span(logits).subspan(i * vocabulary, vocabulary); };
      check_finite(row(x), static_cast<int64_t>(begin + i), "first");
      check_finite(row(y), static_cast<int64_t>(begin + i), "second");
      compare_position(row(x), row(y), result);
    }
  }
  result.mean_difference /= static_cast<double>(result.tokens);
  result.mean_kl /= static_cast<double>(result.tokens);
  return result;
}

}  // namespace rorqual
