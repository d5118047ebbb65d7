#include "kernels/common/vec_avx512.h"
// The vector header first: the code below is written in its names.
#include "kernels/common/probe.inc"

namespace rorqual {
const VecProbe kProbeAvx512 = {probe_exp, probe_sigmoid, probe_narrow, probe_widen};
}  // namespace rorqual
