#include "hopper/tensor_map.h"

#include "base/error.h"

namespace rorqual::hopper {

void check_tensor_map(const TensorMapShape& s) {
  const int64_t size = size_of(s.element);
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  if (s.data == nullptr || !aligned(s.data)) fail("tensor map: the matrix at {} is not aligned to 16 bytes", s.data);
  if (s.columns < 1 || s.rows < 1 || s.depth < 1) fail("tensor map: {} matrices of {}×{}", s.depth, s.rows, s.columns);
  if (s.row_bytes % 16 != 0 || s.row_bytes < s.columns * size)
    fail("tensor map: rows of {} elements of {} bytes every {} bytes; that must be a multiple of 16", s.columns, size,
         s.row_bytes);
  if (s.depth > 1 && (s.matrix_bytes % 16 != 0 || s.matrix_bytes <= 0))
    fail("tensor map: matrices every {} bytes; that must be a multiple of 16", s.matrix_bytes);
  if (s.box_columns < 1 || s.box_columns > 256 || s.box_rows < 1 || s.box_rows > 256 || s.box_columns * size % 16 != 0)
    fail("tensor map: boxes of {}×{} elements of {} bytes", s.box_rows, s.box_columns, size);
  if (s.swizzle && s.box_columns * size != 128)
    fail("tensor map: swizzled boxes of {} bytes a row, not 128", s.box_columns * size);
}

}  // namespace rorqual::hopper
