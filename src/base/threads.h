// The one thread pool of the process, and Stream, the handle through which every kernel gets its threads.
// No OpenMP: the sanitizers see every thread. Which thread runs a task never changes a result: tasks are cut by sizes
// alone and each writes its own output.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace rorqual {

// Threads that a process may use: OMP_NUM_THREADS if set (1 to 1024, else an Error), else the CPUs of its affinity mask.
int default_thread_count();

class ThreadPool {
 public:
  // The calling thread works too, so `threads` - 1 are started.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Runs body(task) for every task in [0, tasks), each once, tasks taken in ascending order; returns when all are done.
  // The first exception is rethrown here. Not reentrant: a body must not call run on the same pool.
  void run(int64_t tasks, const std::function<void(int64_t)>& body);

 private:
  void worker();
  void take_tasks();

  const int threads_;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<uint64_t> generation_{0};  // of the current run; workers wait for it to change
  std::atomic<int64_t> next_{0};
  std::atomic<int> busy_{0};
  int64_t tasks_ = 0;
  const std::function<void(int64_t)>* body_ = nullptr;
  std::exception_ptr error_;
  std::atomic<bool> stop_{false};
};

// Where a kernel runs. On the CPU: a pool; a call returns when the work is done. On a GPU: a CUDA stream (cudaStream_t, null
// for the default one); a call returns when the work is queued, and what it was given must live until it is done.
class Stream {
 public:
  explicit Stream(ThreadPool& pool) : pool_(&pool) {}
  static Stream on_device(void* cuda_stream = nullptr) {
    Stream stream;
    stream.on_device_ = true;
    stream.device_stream_ = cuda_stream;
    return stream;
  }
  bool is_on_device() const { return on_device_; }
  void* device_stream() const { return device_stream_; }
  // A stream that runs nothing: for dry runs over memory that is only counted.
  static Stream dry() { return Stream(); }
  bool is_dry() const { return pool_ == nullptr && !on_device_; }
  int threads() const { return pool_ == nullptr ? 1 : pool_->threads(); }
  template <class Body>
  void parallel(int64_t tasks, Body&& body) const {
    if (tasks <= 0 || pool_ == nullptr) return;
    if (tasks == 1 || pool_->threads() == 1) {
      for (int64_t i = 0; i < tasks; ++i) body(i);
      return;
    }
    pool_->run(tasks, std::function<void(int64_t)>(std::ref(body)));
  }

 private:
  Stream() = default;
  ThreadPool* pool_ = nullptr;
  bool on_device_ = false;
  void* device_stream_ = nullptr;
};

// Scratch of the calling thread, 64-byte aligned, at least `bytes` long; valid until the thread's next call with the same slot.
// Kernels use it for packed panels. Slots 0 to 3. Contents are undefined.
void* thread_scratch(int slot, int64_t bytes);

}  // namespace rorqual
