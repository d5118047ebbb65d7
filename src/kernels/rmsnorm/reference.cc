// The scalar truth of RMSNorm: sums in ascending order of columns, in FP32 (double for F64).
#include <algorithm>
#include <cmath>

#include "kernels/rmsnorm/kernels.h"

namespace rorqual::rmsnorm_reference {
namespace {

template <class C, class X>
C inverse_rms_of(const X* x, int64_t d, double eps) {
  C squares = 0;
  for (int64_t i = 0; i < d; ++i) squares += static_cast<C>(x[i]) * static_cast<C>(x[i]);
  return C(1) / std::sqrt(squares / static_cast<C>(d) + static_cast<C>(eps));
}

template <class X, class Dy, class Dx>
void input_gradient_row(const X* x, const compute_t<X>* w, const Dy* d_y, Dx* d_x, int64_t d, double eps, bool accumulate) {
  using C = compute_t<X>;
  const C r = inverse_rms_of<C>(x, d, eps);
  C dot = 0;
  for (int64_t i = 0; i < d; ++i) dot += static_cast<C>(x[i]) * (w[i] * static_cast<C>(d_y[i]));
  const C pull = r * r * (dot / static_cast<C>(d));
  for (int64_t i = 0; i < d; ++i) {
    const C gradient = r * (w[i] * static_cast<C>(d_y[i]) - static_cast<C>(x[i]) * pull);
    d_x[i] = static_cast<Dx>(accumulate ? static_cast<C>(d_x[i]) + gradient : gradient);
  }
}

}  // namespace

double inverse_rms(const void* x, DType x_type, int64_t d, double eps) {
  return visit_float(x_type, [&](auto zero) {
    using X = decltype(zero);
    return static_cast<double>(inverse_rms_of<compute_t<X>>(static_cast<const X*>(x), d, eps));
  });
}

void forward(const void* x, DType x_type, const void* w, double r, void* y, DType y_type, int64_t n) {
  visit_float(x_type, [&](auto x_zero) {
    visit_float(y_type, [&](auto y_zero) {
      using X = decltype(x_zero);
      using Y = decltype(y_zero);
      using C = compute_t<X>;
      for (int64_t i = 0; i < n; ++i)
        static_cast<Y*>(y)[i] =
            static_cast<Y>(static_cast<C>(static_cast<const X*>(x)[i]) * static_cast<C>(r) * static_cast<const C*>(w)[i]);
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
        const C r = inverse_rms_of<C>(x, d, args.eps);
        for (int64_t i = 0; i < d; ++i) sum[i] += static_cast<C>(d_y[i]) * (static_cast<C>(x[i]) * r);
      }
    });
  });
}

}  // namespace rorqual::rmsnorm_reference
