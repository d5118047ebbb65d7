#include "kernels/common/vec_quantise_avx512.h"
// The vector code first, which the columns are written in.
#include "kernels/common/vec_quantise_columns.inc"
// Those next, which the codes fall back to.
#include "kernels/common/requantise_codes_avx512.inc"

namespace rorqual {

const QuantiseKernels kQuantiseAvx512 = {vector_row_amax, vector_quantise_row, vector_dequantise_row, column_amax_avx512,
                                         columns_avx512};

}  // namespace rorqual
