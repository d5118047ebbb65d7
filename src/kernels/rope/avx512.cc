#include "kernels/common/vec_avx512.h"
// The vector header first: the code below is written in its names.
#include "kernels/rope/vector.inc"

namespace rorqual::rope_avx512 {

void rotate_rows(const RopeArgs& args, int64_t begin, int64_t end) {
  rotate_rows_of(args, begin, end);
}

}  // namespace rorqual::rope_avx512
