#include "base/threads.h"

#include <immintrin.h>
#include <sched.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <string>

#include "base/error.h"

namespace rorqual {
namespace {
// Workers spin this many pauses (some tens of microseconds) for the next run before they sleep: kernels follow each other
// closely.
constexpr int kSpins = 4000;
}  // namespace

int default_thread_count() {
  if (const char* text = std::getenv("OMP_NUM_THREADS"); text && *text) {
    char* end = nullptr;
    const long n = std::strtol(text, &end, 10);
    if (*end != '\0' || n < 1 || n > 1024) fail_usage("OMP_NUM_THREADS is '{}': set it to a number from 1 to 1024", text);
    return static_cast<int>(n);
  }
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

ThreadPool::ThreadPool(int threads) : threads_(threads) {
  CHECK(threads >= 1);
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { worker(); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  for (auto& w : workers_) w.join();
}

void ThreadPool::take_tasks() {
  for (;;) {
    const int64_t i = next_.fetch_add(1);
    if (i >= tasks_) return;
    try {
      (*body_)(i);
    } catch (...) {
      std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }
}

void ThreadPool::worker() {
  uint64_t seen = 0;
  for (;;) {
    for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen; ++spin) _mm_pause();
    if (generation_.load(std::memory_order_acquire) == seen) {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return generation_.load() != seen; });
    }
    seen = generation_.load(std::memory_order_acquire);
    if (stop_) return;
    take_tasks();
    if (busy_.fetch_sub(1) == 1) {
      std::lock_guard lock(mutex_);
      done_.notify_one();
    }
  }
}

void ThreadPool::run(int64_t tasks, const std::function<void(int64_t)>& body) {
  CHECK(body_ == nullptr, "ThreadPool::run is not reentrant");
  tasks_ = tasks;
  body_ = &body;
  error_ = nullptr;
  next_ = 0;
  busy_ = static_cast<int>(workers_.size());
  {
    std::lock_guard lock(mutex_);
    generation_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  take_tasks();
  for (int spin = 0; spin < kSpins && busy_.load(std::memory_order_acquire) > 0; ++spin) _mm_pause();
  if (busy_.load() > 0) {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return busy_.load() == 0; });
  }
  body_ = nullptr;
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void* thread_scratch(int slot, int64_t bytes) {
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  struct Buffer {
    std::unique_ptr<void, Free> data;
    int64_t size = 0;
  };
  thread_local std::array<Buffer, 4> buffers;
  CHECK(slot >= 0 && slot < 4);
  Buffer& b = buffers[static_cast<size_t>(slot)];
  if (b.size < bytes) {
    const int64_t rounded = (bytes + 4095) / 4096 * 4096;
    b.data.reset(std::aligned_alloc(4096, static_cast<size_t>(rounded)));
    CHECK(b.data != nullptr, "out of memory for {} bytes of scratch", rounded);
    b.size = rounded;
  }
  return b.data.get();
}

}  // namespace rorqual
