#include "kernels/adamw/kernels.h"
#include "kernels/adamw/vector.inc"
#include "kernels/common/vec_avx2.h"

namespace rorqual::adamw_detail {

const RunBlock kAvx2 = run_block;

}  // namespace rorqual::adamw_detail
