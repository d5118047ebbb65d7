// The ceiling of this machine for matrix products: what "share of the measured peak" is a share of.
#pragma once

#include "base/threads.h"
#include "tensor/dtype.h"

namespace rorqual {

// GFLOP/s that all threads of the stream reach together with the inner instruction of the best GEMM kernel for these operands
// (fused multiply-add, or tdpbf16ps for bf16 on AMX) working on registers alone: the instruction's ceiling, not a product's
// speed. Honours RORQUAL_ISA. Best of several rounds, about 50 ms in all. Operands F32 or BF16 (F64: the reference's ceiling).
double measure_peak_flops(DType operands, const Stream& stream);

}  // namespace rorqual
