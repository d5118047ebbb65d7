// The scalar truth of RoPE, in FP32 (double for F64), every product and sum rounded.
#include "kernels/rope/kernels.h"

namespace rorqual::rope_reference {
namespace {

template <class X>
void rotate(X* x, const compute_t<X>* table, int64_t dim, bool interleaved, bool inverse) {
  using C = compute_t<X>;
  const int64_t half = dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    X& first = x[interleaved ? 2 * i : i];
    X& second = x[interleaved ? 2 * i + 1 : i + half];
    const C a = static_cast<C>(first), b = static_cast<C>(second);
    const C cosine = table[i], sine = inverse ? -table[half + i] : table[half + i];
    first = static_cast<X>(a * cosine - b * sine);
    second = static_cast<X>(b * cosine + a * sine);
  }
}

}  // namespace

void rotate_rows(const RopeArgs& args, int64_t begin, int64_t end) {
  visit_float(args.x.dtype, [&](auto zero) {
    using X = decltype(zero);
    for (int64_t t = begin; t < end; ++t) {
      const compute_t<X>* table = args.table.row<compute_t<X>>(args.position[t]);
      for (int64_t h = 0; h < args.heads; ++h)
        rotate(args.x.row<X>(t) + h * args.head_stride + args.offset, table, args.dim, args.interleaved, args.inverse);
    }
  });
}

}  // namespace rorqual::rope_reference
