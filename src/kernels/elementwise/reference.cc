// The scalar truth of the passes over memory.
#include <type_traits>

#include "kernels/elementwise/kernels.h"

namespace rorqual {
namespace {

// Sums run in double if either side is F64, else in FP32.
template <class X, class Y>
using sum_t = std::conditional_t<std::is_same_v<X, double> || std::is_same_v<Y, double>, double, float>;

void convert_reference(const void* x_data, DType x_type, void* y_data, DType y_type, int64_t n, bool accumulate) {
  visit_float(x_type, [&](auto x_zero) {
    visit_float(y_type, [&](auto y_zero) {
      using X = decltype(x_zero);
      using Y = decltype(y_zero);
      using C = sum_t<X, Y>;
      const X* x = static_cast<const X*>(x_data);
      Y* y = static_cast<Y*>(y_data);
      for (int64_t i = 0; i < n; ++i)
        y[i] = static_cast<Y>(accumulate ? static_cast<C>(y[i]) + static_cast<C>(x[i]) : static_cast<C>(x[i]));
    });
  });
}

template <class C>
C round_to(C value, DType payload) {
  return visit_float(payload, [&](auto zero) { return static_cast<C>(static_cast<decltype(zero)>(value)); });
}

// One element: its base, then node after node, each rounded.
template <class C, class X>
C combine_element(const CombineRowsArgs& args, int64_t token, int64_t i, C total) {
  const int32_t* row = args.row + token * args.top_k;
  const int32_t* node = args.node + token * args.top_k;
  for (int64_t j = 0; j < args.top_k;) {
    C sum = 0;
    const int32_t current = node[j];
    for (; j < args.top_k && node[j] == current; ++j) sum += static_cast<C>(args.x.row<X>(row[j])[i]);
    total += round_to(sum, args.payload);
  }
  return total;
}

void combine_reference(const CombineRowsArgs& args, int64_t begin, int64_t end) {
  visit_float(args.x.dtype, [&](auto x_zero) {
    visit_float(args.y.dtype, [&](auto y_zero) {
      visit_float(args.base ? args.base.dtype : args.y.dtype, [&](auto base_zero) {
        using X = decltype(x_zero);
        using Y = decltype(y_zero);
        using Base = decltype(base_zero);
        using C = sum_t<X, Y>;
        for (int64_t t = begin; t < end; ++t)
          for (int64_t i = 0; i < args.y.cols; ++i) {
            const C base = args.base ? static_cast<C>(args.base.row<Base>(t)[i]) : C(0);
            args.y.row<Y>(t)[i] = static_cast<Y>(combine_element<C, X>(args, t, i, base));
          }
      });
    });
  });
}

template <class T>
void squares_reference(const T* x, int64_t n, double* lanes) {
  for (int lane = 0; lane < kSquaresLanes; ++lane) {
    double sum = 0;
    for (int64_t i = lane; i < n; i += kSquaresLanes) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    lanes[lane] = sum;
  }
}

void scale_reference(float* x, int64_t n, float factor) {
  for (int64_t i = 0; i < n; ++i) x[i] *= factor;
}

void add_reference(float* a, const float* b, int64_t n) {
  for (int64_t i = 0; i < n; ++i) a[i] += b[i];
}

void ema_reference(float* ema, const float* x, int64_t n, float decay, float rest) {
  for (int64_t i = 0; i < n; ++i) ema[i] = decay * ema[i] + rest * x[i];
}

}  // namespace

const ElementwiseKernels kElementwiseReference = {convert_reference, combine_reference, squares_reference<float>,
                                                  scale_reference,   add_reference,     ema_reference};

void squares_f64(const double* x, int64_t n, double* lanes) {
  squares_reference(x, n, lanes);
}

}  // namespace rorqual
