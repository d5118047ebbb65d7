#include "kernels/adamw/kernels.h"
#include "kernels/adamw/vector.inc"
#include "kernels/common/vec_avx512.h"

namespace rorqual::adamw_detail {

const RunBlock kAvx512 = run_block;

}  // namespace rorqual::adamw_detail
