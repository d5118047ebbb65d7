// Which experts a token goes to: a function of its scores and the bias alone. The scalar truth; the vector kernels choose the
// same by exact comparisons (choose.inc).
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/router/router.h"

namespace rorqual::router {

// Holds the scratch of one task. NaN ranks as −inf. Excluded groups are never candidates, whatever their scores.
template <class T>
class ExpertChooser {
 public:
  explicit ExpertChooser(const RouterShape& shape)
      : shape_(shape),
        biased_(static_cast<size_t>(shape.experts)),
        group_score_(static_cast<size_t>(shape.groups)),
        group_(static_cast<size_t>(shape.top_groups)),
        value_(static_cast<size_t>(std::max(shape.top_k, shape.top_groups))) {}

  // scores and bias: [experts], bias may be null. expert: [top_k], written in ascending order.
  void choose(const T* scores, const T* bias, int32_t* expert) {
    for (int64_t i = 0; i < shape_.experts; ++i) biased_[i] = rank(bias ? scores[i] + bias[i] : scores[i]);
    if (shape_.groups == shape_.top_groups) {
      int64_t filled = 0;
      offer(biased_.data(), 0, shape_.experts, shape_.top_k, expert, filled);
    } else {
      choose_among_groups(expert);
    }
    sort_ascending(expert, shape_.top_k);
  }

 private:
  static T rank(T x) { return std::isnan(x) ? -std::numeric_limits<T>::infinity() : x; }

  void choose_among_groups(int32_t* expert) {
    const int64_t size = shape_.experts / shape_.groups;
    for (int64_t g = 0; g < shape_.groups; ++g) group_score_[g] = score_group(biased_.data() + g * size, size);
    int64_t filled = 0;
    offer(group_score_.data(), 0, shape_.groups, shape_.top_groups, group_.data(), filled);
    sort_ascending(group_.data(), shape_.top_groups);
    filled = 0;
    for (int64_t i = 0; i < shape_.top_groups; ++i) {
      const int64_t begin = group_[i] * size;
      offer(biased_.data(), begin, begin + size, shape_.top_k, expert, filled);
    }
  }

  T score_group(const T* c, int64_t size) const {
    T first = c[0], second = -std::numeric_limits<T>::infinity();
    for (int64_t i = 1; i < size; ++i) {
      if (c[i] > second) second = c[i];
      if (second > first) std::swap(first, second);
    }
    return shape_.group_sum_of_two && size > 1 ? rank(first + second) : first;
  }

  // Offers candidates [begin, end) of c, ascending, to the list of the k best: list[0..filled) holds indices by falling value
  // (value_ beside it). A candidate passes only smaller values, so that equal ones keep the order of their indices.
  void offer(const T* c, int64_t begin, int64_t end, int64_t k, int32_t* list, int64_t& filled) {
    for (int64_t i = begin; i < end; ++i) {
      if (filled == k && !(c[i] > value_[k - 1])) continue;
      int64_t at = filled < k ? filled++ : k - 1;
      for (; at > 0 && c[i] > value_[at - 1]; --at) {
        value_[at] = value_[at - 1];
        list[at] = list[at - 1];
      }
      value_[at] = c[i];
      list[at] = static_cast<int32_t>(i);
    }
  }

  static void sort_ascending(int32_t* list, int64_t n) {
    for (int64_t i = 1; i < n; ++i) {
      const int32_t x = list[i];
      int64_t at = i;
      for (; at > 0 && list[at - 1] > x; --at) list[at] = list[at - 1];
      list[at] = x;
    }
  }

  const RouterShape shape_;
  std::vector<T> biased_, group_score_;
  std::vector<int32_t> group_;
  std::vector<T> value_;
};

// weight: [top_k], from the scores without bias; the sum runs over ascending experts.
template <class T>
void routing_weights(const RouterShape& shape, const T* scores, const int32_t* expert, T* weight) {
  T sum = 0;
  for (int64_t k = 0; k < shape.top_k; ++k) sum += scores[expert[k]];
  const T denominator = sum + static_cast<T>(1e-20), scale = static_cast<T>(shape.scale);
  for (int64_t k = 0; k < shape.top_k; ++k) {
    const T s = scores[expert[k]];
    weight[k] = (shape.normalise ? s / denominator : s) * scale;
  }
}

}  // namespace rorqual::router
