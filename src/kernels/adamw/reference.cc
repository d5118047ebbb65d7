// Scalar truth of AdamW.
#include <cmath>

#include "kernels/adamw/kernels.h"

namespace rorqual::adamw_detail {
namespace {

// One element, in the order that every kernel follows.
template <class T, class M, class V>
void update(const Coefficients<T>& c, T g, T& w, M& m, V& v) {
  const T gradient = g * c.grad_scale;
  const T first = c.beta1 * static_cast<T>(m) + c.rest1 * gradient;
  const T second = c.beta2 * static_cast<T>(v) + c.rest2 * (gradient * gradient);
  const T denominator = std::sqrt(second) * c.inverse_root_c2 + c.eps;
  w = w * c.keep - c.step_size * first / denominator;
  m = static_cast<M>(first);
  v = static_cast<V>(second);
}

template <class T, class M, class V>
void update_block(const AdamWTensor& t, const Coefficients<T>& c, int64_t begin, int64_t count) {
  T* w = t.w.ptr<T>() + begin;
  const T* g = t.g.ptr<T>() + begin;
  M* m = t.m.ptr<M>() + begin;
  V* v = t.v.ptr<V>() + begin;
  for (int64_t i = 0; i < count; ++i) update(c, g[i], w[i], m[i], v[i]);
}

void run_block(const AdamWArgs& args, const BlockRange& b) {
  const AdamWTensor& t = args.tensors[static_cast<size_t>(b.tensor)];
  if (t.w.dtype == DType::kF64) {
    update_block<double, double, double>(t, coefficients<double>(args, t.decay), b.begin, b.count);
    return;
  }
  const auto c = coefficients<float>(args, t.decay);
  const bool m = t.m.dtype == DType::kBF16, v = t.v.dtype == DType::kBF16;
  if (m && v)
    update_block<float, Bf16, Bf16>(t, c, b.begin, b.count);
  else if (m)
    update_block<float, Bf16, float>(t, c, b.begin, b.count);
  else if (v)
    update_block<float, float, Bf16>(t, c, b.begin, b.count);
  else
    update_block<float, float, float>(t, c, b.begin, b.count);
}

}  // namespace

template <class T>
Coefficients<T> coefficients(const AdamWArgs& args, double decay) {
  const double c1 = 1.0 - std::pow(args.beta1, static_cast<double>(args.step));
  const double c2 = 1.0 - std::pow(args.beta2, static_cast<double>(args.step));
  const auto round = [](double x) { return static_cast<T>(x); };
  return {
      round(1.0 - args.lr * decay), round(args.beta1),   round(1.0 - args.beta1),    round(args.beta2), round(1.0 - args.beta2),
      round(args.grad_scale),       round(args.lr / c1), round(1.0 / std::sqrt(c2)), round(args.eps)};
}
template Coefficients<float> coefficients<float>(const AdamWArgs&, double);
template Coefficients<double> coefficients<double>(const AdamWArgs&, double);

void run_reference(const AdamWArgs& args, const Stream& stream) {
  const Partition work = cut_work(args);
  stream.parallel(work.tasks(), [&](int64_t task) {
    for (int64_t i = work.task_begin[task]; i < work.task_begin[task + 1]; ++i) run_block(args, work.blocks[i]);
  });
}

}  // namespace rorqual::adamw_detail
