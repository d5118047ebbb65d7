// Stores past the caches: no line is read before it is overwritten, and none that somebody needs makes room for it. For what is
// larger than the caches would keep until it is read again; a copy of as many bytes does the same.
#pragma once

#include <xmmintrin.h>

#include <cstdint>

#include "tensor/tensor.h"

namespace rorqual {

// Of one call's output. Above what a core's share of the caches holds on any processor that runs these kernels.
inline constexpr int64_t kKeptInCaches = int64_t{32} << 20;

// Whether y is that large, in rows of whole lines.
inline bool goes_past_caches(const Tensor& y) {
  return y.bytes() > kKeptInCaches && y.stride >= y.cols && reinterpret_cast<uintptr_t>(y.data) % 64 == 0 &&
         bytes_of(y.dtype, y.stride) % 64 == 0;
}

// Before other threads may read what this one stored past the caches.
inline void order_stores_past_caches() {
  _mm_sfence();
}

}  // namespace rorqual
