#include "kernels/common/vec_quantise_avx2.h"
// The vector code first, which the columns are written in.
#include "kernels/common/vec_quantise_columns.inc"

namespace rorqual {

const QuantiseKernels kQuantiseAvx2 = {vector_row_amax, vector_quantise_row, vector_dequantise_row, vector_column_amax,
                                       vector_columns};

}  // namespace rorqual
