#include "tensor/scaled_tensor.h"

#include <algorithm>
#include <bit>

namespace rorqual {
namespace {

void raise(std::atomic<uint32_t>& largest, float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  uint32_t now = largest.load(std::memory_order_relaxed);
  while (now < bits && !largest.compare_exchange_weak(now, bits, std::memory_order_relaxed)) {
  }
}

// 0 means none.
void lower(std::atomic<uint32_t>& smallest, float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  uint32_t now = smallest.load(std::memory_order_relaxed);
  while (bits != 0 && (now == 0 || now > bits) && !smallest.compare_exchange_weak(now, bits, std::memory_order_relaxed)) {
  }
}

}  // namespace

void QuantiseCounts::merge(const QuantiseCounts& other) {
  values += other.values;
  saturated += other.saturated;
  flushed += other.flushed;
  amax = std::max(amax, other.amax);
  largest_scale = std::max(largest_scale, other.largest_scale);
  if (other.smallest_scale != 0 && (smallest_scale == 0 || other.smallest_scale < smallest_scale))
    smallest_scale = other.smallest_scale;
  not_finite = not_finite || other.not_finite;
}

void QuantiseStatistics::merge(const QuantiseCounts& counts) {
  values_.fetch_add(counts.values, std::memory_order_relaxed);
  saturated_.fetch_add(counts.saturated, std::memory_order_relaxed);
  flushed_.fetch_add(counts.flushed, std::memory_order_relaxed);
  raise(amax_, counts.amax);
  raise(largest_scale_, counts.largest_scale);
  lower(smallest_scale_, counts.smallest_scale);
  if (counts.not_finite) not_finite_.store(true, std::memory_order_relaxed);
}

QuantiseCounts QuantiseStatistics::read() const {
  QuantiseCounts c;
  c.values = values_.load(std::memory_order_relaxed);
  c.saturated = saturated_.load(std::memory_order_relaxed);
  c.flushed = flushed_.load(std::memory_order_relaxed);
  c.amax = std::bit_cast<float>(amax_.load(std::memory_order_relaxed));
  c.smallest_scale = std::bit_cast<float>(smallest_scale_.load(std::memory_order_relaxed));
  c.largest_scale = std::bit_cast<float>(largest_scale_.load(std::memory_order_relaxed));
  c.not_finite = not_finite_.load(std::memory_order_relaxed);
  return c;
}

void QuantiseStatistics::reset() {
  values_ = saturated_ = flushed_ = 0;
  amax_ = smallest_scale_ = largest_scale_ = 0;
  not_finite_ = false;
}

}  // namespace rorqual
