// The exponential moving average of the parameters (report §3.2.3): in host memory, updated by a thread of its own from the
// finished step while the next one runs.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "model/weights.h"

namespace rorqual {

class Ema {
 public:
  // Starts as a copy of the weights (call reset() after they are initialised or loaded).
  Ema(const Weights& weights, double decay, Arena& arena);
  ~Ema();
  Ema(const Ema&) = delete;
  Ema& operator=(const Ema&) = delete;

  void reset();
  // Begins ema = decay·ema + (1 − decay)·weights. The weights must not change before wait() has returned.
  void start();
  void wait();

  // Laid out as the master regions. Exact to the last start() after wait().
  Tensor dense() const { return dense_; }
  Tensor expert() const { return expert_; }
  Tensor of(size_t tensor) const;

 private:
  void run();

  const Weights& weights_;
  double decay_;
  Tensor dense_, expert_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool pending_ = false, stop_ = false;
  std::thread thread_;
};

}  // namespace rorqual
