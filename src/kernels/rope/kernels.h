// What each instruction set gives for RoPE: a range of rows. select.cc cuts the work and runs the tasks.
#pragma once

#include "kernels/rope/rope.h"

namespace rorqual {

namespace rope_reference {
void rotate_rows(const RopeArgs& args, int64_t begin, int64_t end);
}
namespace rope_avx2 {
void rotate_rows(const RopeArgs& args, int64_t begin, int64_t end);
}
namespace rope_avx512 {
void rotate_rows(const RopeArgs& args, int64_t begin, int64_t end);
}

}  // namespace rorqual
