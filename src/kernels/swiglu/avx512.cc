#include "kernels/common/vec_avx512.h"
// The vector header first: the code below is written in its names.
#include "kernels/swiglu/vector.inc"

namespace rorqual::swiglu_avx512 {

void forward_rows(const SwiGluForwardArgs& args, int64_t begin, int64_t end) {
  forward_rows_of(args, begin, end);
}
void backward_rows(const SwiGluBackwardArgs& args, int64_t begin, int64_t end) {
  backward_rows_of(args, begin, end);
}

}  // namespace rorqual::swiglu_avx512
