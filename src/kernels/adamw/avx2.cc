#include "kernels/adamw/kernels.h"
#include "kernels/common/vec_avx2.h"
// clang-format off: needs what stands above it
#include "kernels/adamw/vector.inc"
// clang-format on

namespace rorqual::adamw_detail {

const RunBlock kAvx2 = run_block;

}  // namespace rorqual::adamw_detail
