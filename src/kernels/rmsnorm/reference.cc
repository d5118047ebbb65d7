// The scalar truth of RMSNorm: sums in ascending order of columns, in FP32 (double for F64).
#include <algorithm>
#include <cmath>

#include "kernels/rmsnorm/kernels.h"

namespace rorqual::rmsnorm_reference {
namespace {

template <class C, class X>
C inverse_rms(const X* x, int64_t d, double eps) {
  C squares = 0;
  for (int64_t i = 0; i < d; ++i) squares += static_cast<C>(x[i]) * static_cast<C>(x[i]);
  return C(1) / std::sqrt(squares / static_cast<C>(d) + static_cast<C>(eps));
}

template <class X, class Y>
void forward_row(const X* x, const compute_t<X>* w, Y* y, int64_t d, double eps) {
  using C = compute_t<X>;
  const C r = inverse_rms<C>(x, d, eps);
  for (int64_t i = 0; i < d; ++i) y[i] = static_cast<Y>(static_cast<C>(x[i]) * r * w[i]);
}

template <class X, class Dy, class Dx>
void input_gradient_row(const X* x, const compute_t<X>* w, const Dy* d_y, Dx* d_x, int64_t d, double eps, bool accumulate) {
  using C = compute_t<X>;
  const C r = inverse_rms<C>(x, d, eps);
  C dot = 0;
  for (int64_t i = 0; i < d; ++i) dot += static_cast<C>(x[i]) * (w[i] * static_cast<C>(d_y[i]));
  const C pull = r * r * (dot / static_cast<C>(d));
  for (int64_t i = 0; i < d; ++i) {
    const C gradient = r * (w[i] * static_cast<C>(d_y[i]) - static_cast<C>(x[i]) * pull);
    d_x[i] = static_cast<Dx>(accumulate ? static_cast<C>(d_x[i]) + gradient : gradient);
  }
}

}  // namespace

void forward_rows(const RmsNormForwardArgs& args, int64_t begin, int64_t end) {
  visit_float(args.x.dtype, [&](auto x) {
    visit_float(args.y.codes.dtype, [&](auto y) {
      using X = decltype(x);
      using Y = decltype(y);
      for (int64_t t = begin; t < end; ++t)
        forward_row(args.x.row<X>(t), args.w.ptr<compute_t<X>>(), args.y.codes.row<Y>(t), args.x.cols, args.eps);
    });
  });
}

void input_gradient_rows(const RmsNormInputGradientArgs& args, int64_t begin, int64_t end) {
  visit_float(args.x.dtype, [&](auto x) {
    visit_float(args.d_y.dtype, [&](auto d_y) {
      visit_float(args.d_x.dtype, [&](auto d_x) {
        using X = decltype(x);
        using Dy = decltype(d_y);
        using Dx = decltype(d_x);
        for (int64_t t = begin; t < end; ++t)
          input_gradient_row(args.x.row<X>(t), args.w.ptr<compute_t<X>>(), args.d_y.row<Dy>(t), args.d_x.row<Dx>(t),
                             args.x.cols, args.eps, args.accumulate);
      });
    });
  });
}

void weight_gradient_block(const RmsNormWeightGradientArgs& args, int64_t begin, int64_t end, void* partial) {
  visit_float(args.x.dtype, [&](auto x_zero) {
    visit_float(args.d_y.dtype, [&](auto d_y_zero) {
      using X = decltype(x_zero);
      using Dy = decltype(d_y_zero);
      using C = compute_t<X>;
      const int64_t d = args.x.cols;
      C* sum = static_cast<C*>(partial);
      std::fill(sum, sum + d, C(0));
      for (int64_t t = begin; t < end; ++t) {
        const X* x = args.x.row<X>(t);
        const Dy* d_y = args.d_y.row<Dy>(t);
        const C r = inverse_rms<C>(x, d, args.eps);
        for (int64_t i = 0; i < d; ++i) sum[i] += static_cast<C>(d_y[i]) * (static_cast<C>(x[i]) * r);
      }
    });
  });
}

}  // namespace rorqual::rmsnorm_reference
