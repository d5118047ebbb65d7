// Passes over memory on Hopper: the operations of elementwise.h on device memory, bit for bit what the CPU computes (NaNs
// whatever their payload; a copy within one type keeps every bit).
// Refused ("" if not): F64, E5M6, rows that do not begin at multiples of 16 bytes (of 4 bytes for copies within one type; of
// contiguous tensors only the first counts), more than 32 rows a token. Row indices are not checked.
#pragma once

#include <string>

#include "kernels/elementwise/elementwise.h"

namespace rorqual {

std::string refuse_convert_sm90a(const ConvertArgs& args);
void convert_sm90a(const ConvertArgs& args, const Stream& stream);

std::string refuse_gather_rows_sm90a(const GatherRowsArgs& args);
void gather_rows_sm90a(const GatherRowsArgs& args, const Stream& stream);

std::string refuse_combine_rows_sm90a(const CombineRowsArgs& args);
void combine_rows_sm90a(const CombineRowsArgs& args, const Stream& stream);

}  // namespace rorqual
