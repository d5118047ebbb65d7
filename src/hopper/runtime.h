// Memory of a Hopper GPU, its streams and events, for code outside kernels. Two programs give it: cuda_runtime.cc, and
// emulator/runtime.cc, whose device memory is the process's own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "hopper/launch.h"

namespace rorqual::hopper {

// True in programs linked with the emulator. Its kernels compute what a GPU computes, 10^5 times slower.
bool is_emulated();

struct DeviceInfo {
  std::string name;  // "NVIDIA H100 80GB HBM3", "emulated Hopper"
  int multiprocessors = 0;
  int64_t l2_bytes = 0;
  int64_t memory_bytes = 0;
};
// Empty: a GPU of compute capability 9.0 can be used. Else the reason why not. Asks once.
const std::string& why_no_device();
const DeviceInfo& device_info();  // an Error if there is none

// `bytes` of device memory, 256-byte aligned, filled with 0xff; an Error says how much was asked for. Movable.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(size_t bytes);
  DeviceBuffer(const void* host, size_t bytes);  // a copy of host memory
  void* data() const { return data_.get(); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data());
  }
  size_t bytes() const { return bytes_; }
  void copy_from(const void* host, size_t bytes, size_t offset = 0) const;
  void copy_to(void* host, size_t bytes, size_t offset = 0) const;  // waits for all work
  void fill(uint8_t value) const;

 private:
  struct Release {
    void operator()(void* p) const;
  };
  std::unique_ptr<void, Release> data_;
  size_t bytes_ = 0;
};

// Emulator: draws the order of warps and the moments of copies anew from a seed (RORQUAL_EMULATOR_SEED, or 0), so that a test
// sees the same whatever ran before it. Nothing on a GPU.
void restart_schedule();

// Waits for all work of the device; an Error names what went wrong in a kernel.
void synchronise();

// Queues a copy between two places of device memory.
void copy_on_device(void* to, const void* from, size_t bytes, DeviceStream stream = nullptr);

// Launches recorded once, run again for the CPU's price of one. `record` gets the stream to queue them on; it must not wait.
// Kernels must have run before (loading code is no part of a recording).
class Graph {
 public:
  explicit Graph(const std::function<void(DeviceStream)>& record);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void launch(DeviceStream stream = nullptr) const;

 private:
  void* recorded_ = nullptr;
};

// Milliseconds between two points of a stream.
class Timer {
 public:
  Timer();
  ~Timer();
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  void start(DeviceStream stream = nullptr);
  void stop(DeviceStream stream = nullptr);
  double elapsed_ms();  // waits

 private:
  void* start_ = nullptr;
  void* stop_ = nullptr;
};

}  // namespace rorqual::hopper
