#include "train/ema.h"

#include <cstring>

#include "base/trace.h"
#include "kernels/elementwise/elementwise.h"

namespace rorqual {

Ema::Ema(const Weights& weights, double decay, Arena& arena) : weights_(weights), decay_(decay) {
  dense_ = arena.tensor(MemoryClass::kEma, weights.dense().dtype, 1, weights.dense().count());
  expert_ = arena.tensor(MemoryClass::kEma, weights.expert().dtype, 1, weights.expert().count());
  thread_ = std::thread([this] { run(); });
}

Ema::~Ema() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Ema::reset() {
  wait();
  std::memcpy(dense_.data, weights_.dense().data, static_cast<size_t>(dense_.bytes()));
  std::memcpy(expert_.data, weights_.expert().data, static_cast<size_t>(expert_.bytes()));
}

void Ema::start() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !pending_; });
  pending_ = true;
  changed_.notify_all();
}

void Ema::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !pending_; });
}

Tensor Ema::of(size_t tensor) const {
  const TensorSpec& s = weights_.list()[tensor];
  const Tensor& region = s.in_expert_region() ? expert_ : dense_;
  return {region.col_range(s.offset, s.count()).data, region.dtype, s.rows, s.cols};
}

void Ema::run() {
  name_trace_thread("ema");
  ThreadPool pool(1);
  const Stream stream(pool);
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return pending_ || stop_; });
      if (!pending_) return;
    }
    {
      const TraceSpan span("ema");
      ema_update(dense_, weights_.dense(), decay_, stream);
      ema_update(expert_, weights_.expert(), decay_, stream);
    }
    std::lock_guard lock(mutex_);
    pending_ = false;
    changed_.notify_all();
  }
}

}  // namespace rorqual
