// RMSNorm on Hopper: the operations of rmsnorm.h on device memory. A row's sums run in a tree that depends on d alone.
// Refused ("" if not): F64, d above 16384, rows that do not begin at multiples of 16 bytes, codes other than E4M3,
// Granularity other than kGroup, statistics.
#pragma once

#include <string>

#include "kernels/rmsnorm/rmsnorm.h"

namespace rorqual {

std::string refuse_rmsnorm_forward_sm90a(const RmsNormForwardArgs& args);
void rmsnorm_forward_sm90a(const RmsNormForwardArgs& args, const Stream& stream);

std::string refuse_rmsnorm_input_gradient_sm90a(const RmsNormInputGradientArgs& args);
void rmsnorm_input_gradient_sm90a(const RmsNormInputGradientArgs& args, const Stream& stream);

// F32 elements of RmsNormWeightGradientArgs::scratch: 1 / rms of each row, and the sums of each block of 128 rows.
int64_t rmsnorm_weight_gradient_sm90a_scratch(int64_t rows, int64_t d);
// Three launches: the rows' 1 / rms, the blocks' sums, their sum in order. Reads x twice, d_y once.
std::string refuse_rmsnorm_weight_gradient_sm90a(const RmsNormWeightGradientArgs& args);
void rmsnorm_weight_gradient_sm90a(const RmsNormWeightGradientArgs& args, const Stream& stream);

}  // namespace rorqual
