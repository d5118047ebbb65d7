// Bytes in the units that people read.
#pragma once

#include <cstdint>

namespace rorqual {

constexpr double mib(int64_t bytes) {
  return static_cast<double>(bytes) / 0x1p20;
}
constexpr double gib(int64_t bytes) {
  return static_cast<double>(bytes) / 0x1p30;
}

}  // namespace rorqual
