// The scalar truth of SwiGLU, in FP32 (double for F64). The sum of d_weight runs in ascending order of columns.
#include <cmath>

#include "kernels/swiglu/kernels.h"

namespace rorqual::swiglu_reference {
namespace {

// sigmoid(x) and 1 − sigmoid(x), each to relative accuracy: exp never overflows and nothing cancels.
template <class C>
struct Sigmoid {
  C value, complement;
};
template <class C>
Sigmoid<C> sigmoid(C x) {
  const C e = std::exp(-std::abs(x));
  const C large = C(1) / (C(1) + e), small = e * large;
  return x < C(0) ? Sigmoid<C>{small, large} : Sigmoid<C>{large, small};
}

template <class X, class Y>
void forward_row(const X* gate_up, compute_t<X> weight, Y* h, int64_t width) {
  using C = compute_t<X>;
  for (int64_t i = 0; i < width; ++i) {
    const C gate = static_cast<C>(gate_up[i]), up = static_cast<C>(gate_up[width + i]);
    h[i] = static_cast<Y>(gate * sigmoid(gate).value * up * weight);
  }
}

// Returns Σ d_h · silu(gate) · up.
template <class X, class Dh, class Dx>
compute_t<X> backward_row(const X* gate_up, compute_t<X> weight, const Dh* d_h, Dx* d_gate_up, int64_t width) {
  using C = compute_t<X>;
  C d_weight = 0;
  for (int64_t i = 0; i < width; ++i) {
    const C gate = static_cast<C>(gate_up[i]), up = static_cast<C>(gate_up[width + i]), d = static_cast<C>(d_h[i]);
    const Sigmoid<C> s = sigmoid(gate);
    const C silu = gate * s.value;
    const C slope = s.value * (C(1) + gate * s.complement);
    d_weight += d * (silu * up);
    const C weighted = d * weight;
    d_gate_up[i] = static_cast<Dx>(weighted * up * slope);
    d_gate_up[width + i] = static_cast<Dx>(weighted * silu);
  }
  return d_weight;
}

}  // namespace

void forward_rows(const SwiGluForwardArgs& args, int64_t begin, int64_t end) {
  visit_float(args.gate_up.codes.dtype, [&](auto x_zero) {
    visit_float(args.h.codes.dtype, [&](auto h_zero) {
      using X = decltype(x_zero);
      using Y = decltype(h_zero);
      using C = compute_t<X>;
      for (int64_t t = begin; t < end; ++t)
        forward_row(args.gate_up.codes.row<X>(t), args.weight ? args.weight.ptr<C>()[t] : C(1), args.h.codes.row<Y>(t),
                    args.h.codes.cols);
    });
  });
}

void backward_rows(const SwiGluBackwardArgs& args, int64_t begin, int64_t end) {
  visit_float(args.gate_up.codes.dtype, [&](auto x_zero) {
    visit_float(args.d_h.dtype, [&](auto d_h_zero) {
      visit_float(args.d_gate_up.codes.dtype, [&](auto dx_zero) {
        using X = decltype(x_zero);
        using Dh = decltype(d_h_zero);
        using Dx = decltype(dx_zero);
        using C = compute_t<X>;
        for (int64_t t = begin; t < end; ++t) {
          const C weight = args.weight ? args.weight.ptr<C>()[t] : C(1);
          const C d_weight = backward_row(args.gate_up.codes.row<X>(t), weight, args.d_h.row<Dh>(t),
                                          args.d_gate_up.codes.row<Dx>(t), args.d_h.cols);
          if (args.d_weight) args.d_weight.ptr<C>()[t] = d_weight;
        }
      });
    });
  });
}

}  // namespace rorqual::swiglu_reference
