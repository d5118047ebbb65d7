// What benchmarks of kernels for Hopper share: device memory of random numbers, and figures. A figure is one Google Benchmark
// of one iteration whose time is the median that hopper/bench_support.h finds; its counters are what tools/gpu/table.py reads:
//   us, us_low, us_high   median of one call, and the bounds of the middle 80%
//   TFLOPS, GB/s          of the work that the figure counts; of_copy: GB/s as a share of the measured copy bandwidth
//   NAME_us, vs_NAME      of each peer; how many times as long as ours it takes
// The label names the chip.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/threads.h"
#include "hopper/bench_support.h"
#include "tensor/scaled_tensor.h"

namespace rorqual::testing {

// Buffers on the device, alive as long as this is.
class DeviceMemory {
 public:
  void* raw(int64_t bytes) {
    buffers_.emplace_back(static_cast<size_t>((bytes + 255) / 256 * 256));
    return buffers_.back().data();
  }
  // NaN, as device memory begins.
  Tensor blank(DType dtype, int64_t rows, int64_t cols) { return {raw(bytes_of(dtype, rows * cols)), dtype, rows, cols}; }
  // BF16 or F32 near the normal distribution, or E4M3 codes.
  Tensor random(DType dtype, int64_t rows, int64_t cols) {
    const Tensor t = blank(dtype, rows, cols);
    const hopper::Fill fill = dtype == DType::kBF16  ? hopper::Fill::kBf16
                              : dtype == DType::kF32 ? hopper::Fill::kF32
                                                     : hopper::Fill::kE4M3;
    hopper::fill_random(buffers_.back(), fill, ++seed_);
    return t;
  }
  Tensor scales(int64_t rows, int64_t cols, ScaleRule rule) {
    // Rows of whole 16 bytes, as the copy engine reads them.
    const int64_t stride = (cols + 3) / 4 * 4;
    const Tensor t = blank(DType::kF32, rows, stride);
    hopper::fill_random(buffers_.back(), rule == ScaleRule::kPow2 ? hopper::Fill::kPow2Scales : hopper::Fill::kScales, ++seed_);
    return {t.data, DType::kF32, rows, cols, stride};
  }
  // [rows, cols] of E4M3 with scales, random or (`blank`) to be written.
  ScaledTensor codes(int64_t rows, int64_t cols, ScaledTensor::Group group = ScaledTensor::Group::kRow,
                     ScaleRule rule = ScaleRule::kFp32, bool is_blank = false) {
    const bool transposed = group == ScaledTensor::Group::kColumnTransposed;
    const int64_t r = transposed ? cols : rows, c = transposed ? rows : cols;
    const Tensor codes = is_blank ? blank(DType::kE4M3, r, c) : random(DType::kE4M3, r, c);
    const bool row = group == ScaledTensor::Group::kRow;
    return {codes, row ? scales(rows, scale_groups(cols), rule) : scales(scale_groups(rows), cols, rule), group};
  }
  template <class T>
  T* values(const std::vector<T>& host) {
    buffers_.emplace_back(host.data(), host.size() * sizeof(T));
    return buffers_.back().template as<T>();
  }

 private:
  std::vector<hopper::DeviceBuffer> buffers_;
  uint64_t seed_ = 0;
};

// What one call does, for rates.
struct Work {
  double flops = 0;
  double bytes = 0;  // read once and written once
};

class Figure {
 public:
  using Call = std::function<void(int set, const Stream& stream)>;

  DeviceMemory memory;

  // Says what a call does and how much memory one set of inputs takes. Make set_count() sets.
  void set_work(const Work& work, int64_t bytes_of_set) {
    work_ = work;
    sets_ = hopper::sets_past_cache(bytes_of_set);
  }
  int set_count() const { return sets_; }
  // The first contender is ours. `refusal`: why it cannot be run, or "".
  void add(std::string name, const std::string& refusal, Call call) {
    if (!refusal.empty() && contenders_.empty()) refusal_ = refusal;
    if (!refusal.empty()) return;
    contenders_.push_back({std::move(name), [call = std::move(call)](int set, hopper::DeviceStream stream) {
                             call(set, Stream::on_device(stream));
                           }});
  }
  // What only the figure knows.
  void add_counter(const std::string& name, double value) { extra_.emplace_back(name, value); }

  void run(benchmark::State& state) const {
    if (!refusal_.empty()) state.SkipWithError(refusal_.c_str());
    std::vector<hopper::Times> times;
    for (auto _ : state) {
      times = hopper::contest(contenders_, {.sets = sets_});
      state.SetIterationTime(times[0].median * 1e-6);
    }
    if (times.empty()) return;
    const double us = times[0].median;
    auto& counters = state.counters;
    counters["us"] = us;
    counters["us_low"] = times[0].low;
    counters["us_high"] = times[0].high;
    if (work_.flops > 0) counters["TFLOPS"] = work_.flops / us * 1e-6;
    if (work_.bytes > 0) {
      counters["GB/s"] = work_.bytes / us * 1e-3;
      counters["of_copy"] = work_.bytes / (us * 1e-6) / hopper::copy_bandwidth();
    }
    for (size_t i = 1; i < times.size(); ++i) {
      counters[contenders_[i].name + "_us"] = times[i].median;
      counters["vs_" + contenders_[i].name] = times[i].median / us;
    }
    for (const auto& [name, value] : extra_) counters[name] = value;
  }

 private:
  Work work_;
  int sets_ = 1;
  std::vector<hopper::Contender> contenders_;
  std::string refusal_;
  std::vector<std::pair<std::string, double>> extra_;
};

// Registers a figure; `body` makes its inputs and contenders when it is its turn.
inline void add_figure(const std::string& name, std::function<void(Figure&)> body) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [body = std::move(body)](benchmark::State& state) {
                                 if (!hopper::why_no_device().empty()) {
                                   state.SkipWithError(hopper::why_no_device().c_str());
                                   return;
                                 }
                                 state.SetLabel(hopper::device_info().name);
                                 try {
                                   Figure figure;
                                   body(figure);
                                   figure.run(state);
                                 } catch (const std::exception& e) {
                                   state.SkipWithError(e.what());
                                 }
                               })
      ->UseManualTime()
      ->Iterations(1)
      ->Unit(benchmark::kMicrosecond);
}

// A size on a GPU, and the one that the emulator can bear (a check that the figure runs; its times mean nothing).
inline int64_t sized(int64_t on_gpu, int64_t emulated) {
  return hopper::is_emulated() ? std::min(on_gpu, emulated) : on_gpu;
}

// One call on one set of inputs, and why it cannot be run, or "".
struct Pass {
  std::string refusal;
  std::function<void(const Stream& stream)> run;
};
template <class Args>
Pass pass_of(std::string (*refuse)(const Args&), void (*run)(const Args&, const Stream&), const Args& args) {
  return {refuse(args), [=](const Stream& stream) { run(args, stream); }};
}

// Registers a figure of a pass over memory that moves `bytes`; `make` makes one set of inputs.
inline void add_pass_figure(const std::string& name, int64_t bytes, std::function<Pass(DeviceMemory&)> make) {
  add_figure(name, [=](Figure& figure) {
    figure.set_work({.bytes = static_cast<double>(bytes)}, bytes);
    auto sets = std::make_shared<std::vector<Pass>>();
    for (int set = 0; set < figure.set_count(); ++set) sets->push_back(make(figure.memory));
    figure.add("ours", sets->front().refusal,
               [=](int set, const Stream& stream) { (*sets)[static_cast<size_t>(set)].run(stream); });
  });
}

}  // namespace rorqual::testing
