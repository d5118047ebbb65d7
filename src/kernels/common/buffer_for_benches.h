// What benchmarks of passes over memory share: filled matrices, the stream of one thread, and a plain copy beside.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <ctime>
#include <vector>

#include "base/threads.h"
#include "tensor/scaled_tensor.h"

namespace rorqual::testing {

inline Stream one_thread() {
  static ThreadPool pool(1);
  return Stream(pool);
}

// A matrix that was written before it is timed: floats of sizes from 1/8 to 8 of both signs, else zeros.
struct Buffer {
  std::vector<std::byte> bytes;
  Tensor tensor;
  Buffer(DType dtype, int64_t rows, int64_t cols) : bytes(static_cast<size_t>(bytes_of(dtype, rows * cols))) {
    tensor = {bytes.data(), dtype, rows, cols};
    uint32_t state = 1;
    for (int64_t i = 0; i < rows * cols; ++i) {
      state = state * 1664525u + 1013904223u;
      const float size = std::bit_cast<float>((124u + (state >> 24) % 6u) << 23 | (state & 0x7fffffu));
      const float value = (state & 0x800000u) != 0 ? size : -size;
      if (dtype == DType::kF32)
        tensor.ptr<float>()[i] = value;
      else if (dtype == DType::kBF16)
        tensor.ptr<Bf16>()[i] = Bf16(value);
      else
        break;
    }
  }
  operator Tensor() const { return tensor; }
};

// Zero codes with scales of 1.
struct CodedBuffer {
  Buffer codes, scales;
  ScaledTensor tensor;
  CodedBuffer(DType dtype, int64_t rows, int64_t cols, ScaledTensor::Group group = ScaledTensor::Group::kRow)
      : codes(dtype, rows, cols),
        scales(DType::kF32, group == ScaledTensor::Group::kRow ? rows : scale_groups(rows),
               group == ScaledTensor::Group::kRow ? scale_groups(cols) : cols),
        tensor(codes.tensor, scales.tensor, group) {
    for (int64_t i = 0; i < scales.tensor.count(); ++i) scales.tensor.ptr<float>()[i] = 1;
  }
  operator ScaledTensor() const { return tensor; }
};

// Seconds of CPU that the calling thread has had: other processes do not count.
inline double thread_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Runs `body`, on the calling thread, under the benchmark (UseManualTime); reports bytes per second and the share of what a
// copy of the same bytes reaches, timed in turns with it (least times of both).
template <class Body>
void against_copy(benchmark::State& state, int64_t bytes, const Body& body) {
  std::vector<std::byte> from(static_cast<size_t>(bytes / 2), std::byte{1}), to(static_cast<size_t>(bytes / 2), std::byte{2});
  double copy = 1e9, own = 1e9;
  for (auto _ : state) {
    const double begin = thread_seconds();
    body();
    benchmark::ClobberMemory();
    const double middle = thread_seconds();
    std::memcpy(to.data(), from.data(), from.size());
    benchmark::DoNotOptimize(to.data());
    benchmark::ClobberMemory();
    copy = std::min(copy, thread_seconds() - middle);
    own = std::min(own, middle - begin);
    state.SetIterationTime(middle - begin);
  }
  const double gigabytes = static_cast<double>(bytes) * 1e-9;
  state.SetBytesProcessed(state.iterations() * bytes);
  state.counters["GB/s"] = gigabytes / own;
  state.counters["copy GB/s"] = gigabytes / copy;
  state.counters["of copy"] = copy / own;
}

}  // namespace rorqual::testing
