// Quantising on Hopper: the operations of quantise.h on device memory. Codes and scales are bit for bit those of the CPU.
// Refused ("" if not): Granularity other than kGroup, statistics, F64, rows that do not begin at multiples of 16 bytes (codes
// of E5M6: 8), more than 32 choices, columns of E5M2, problems of different types in one call. Rows of choices are not checked.
#pragma once

#include <string>

#include "kernels/quantise/quantise.h"

namespace rorqual {

std::string refuse_quantise_sm90a(const QuantiseArgs& args);
void quantise_sm90a(const QuantiseArgs& args, const Stream& stream);

std::string refuse_quantise_dispatch_sm90a(const QuantiseDispatchArgs& args);
void quantise_dispatch_sm90a(const QuantiseDispatchArgs& args, const Stream& stream);

std::string refuse_dequantise_sm90a(const DequantiseArgs& args);
void dequantise_sm90a(const DequantiseArgs& args, const Stream& stream);

// y also with Group::kColumnTransposed.
std::string refuse_requantise_columns_sm90a(const RequantiseColumnsArgs& args);
void requantise_columns_sm90a(const RequantiseColumnsArgs& args, const Stream& stream);

}  // namespace rorqual
