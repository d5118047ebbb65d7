// What tests of device code share, on a GPU and on the emulator.
#pragma once

#include <gtest/gtest.h>

#include <span>
#include <vector>

#include "hopper/runtime.h"

namespace rorqual::hopper {

// Skips where no Hopper GPU is; says which device ran.
class HopperTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!why_no_device().empty()) GTEST_SKIP() << why_no_device();
    restart_schedule();
    RecordProperty("device", device_info().name);
  }
};

template <class T>
DeviceBuffer to_device(std::span<const T> values) {
  return DeviceBuffer(values.data(), values.size_bytes());
}
template <class T>
DeviceBuffer to_device(const std::vector<T>& values) {
  return to_device(std::span<const T>(values));
}
template <class T>
std::vector<T> to_host(const DeviceBuffer& buffer) {
  std::vector<T> values(buffer.bytes() / sizeof(T));
  synchronise();
  buffer.copy_to(values.data(), values.size() * sizeof(T));
  return values;
}

}  // namespace rorqual::hopper
