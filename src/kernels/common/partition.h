// How passes over rows are cut into tasks: a function of sizes alone, so that no result and no cut depends on the threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/threads.h"

namespace rorqual {

// Bytes that one task of a pass bound by memory moves: about 25 µs of one core.
inline constexpr int64_t kTaskBytes = 256 * 1024;

// Units (rows, elements) per task when each moves `bytes_per_unit`, a multiple of `granule`.
inline int64_t units_per_task(int64_t bytes_per_unit, int64_t granule = 1) {
  const int64_t units = kTaskBytes / std::max<int64_t>(bytes_per_unit, 1);
  return std::max<int64_t>(units / granule, 1) * granule;
}

// Calls body(begin, end) over [0, units) in tasks of units_per_task.
template <class Body>
void parallel_ranges(const Stream& stream, int64_t units, int64_t bytes_per_unit, const Body& body, int64_t granule = 1) {
  const int64_t step = units_per_task(bytes_per_unit, granule);
  stream.parallel((units + step - 1) / step, [&](int64_t task) { body(task * step, std::min(units, (task + 1) * step)); });
}

}  // namespace rorqual
