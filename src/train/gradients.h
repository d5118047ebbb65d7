// Gradient accumulators in the order that the recipe fixes (design, idea 5): inside a lane in micro-batch order, across lanes
// by a pairwise tree; experts have one accumulator per group of lanes, filled in (micro-batch, lane) order.
#pragma once

#include <cstdint>
#include <vector>

#include "model/weights.h"

namespace rorqual {

class GradientAccumulators {
 public:
  // lanes and lane_group are powers of two, lane_group divides lanes (Error, usage, otherwise).
  GradientAccumulators(const Weights& weights, const ModelConfig& config, int64_t lanes, int64_t lane_group, Arena& arena);

  int64_t lanes() const { return lanes_; }
  int64_t lane_group() const { return lane_group_; }

  // Zeroes what the next group of lanes fills. Groups are walked in ascending order.
  void begin_group(const Stream& stream);
  // Where a micro-batch of lane `lane` (inside the current group: lane % lane_group) adds.
  GradientBuffer buffer(int64_t lane) const;
  // The group's lanes are summed and join the tree.
  void end_group(const Stream& stream);
  // After the last group: the sum of everything, the uses of shared tensors folded into their own place. Valid until the next
  // begin_group.
  GradientBuffer total(const Stream& stream);

 private:
  struct Flat {
    Tensor dense, expert;
  };
  struct Subtotal {
    int level = 0;
    size_t flat = 0;
  };
  Flat make(Arena& arena, bool expert) const;

  const Weights& weights_;
  GradientLayout layout_;
  int64_t lanes_, lane_group_;
  std::vector<Flat> flats_;  // flats_[open_] collects; lanes beyond the first of a group collect in lane_dense_
  std::vector<size_t> free_;
  std::vector<Tensor> lane_dense_;
  size_t open_ = 0;
  std::vector<Subtotal> tree_;
};

}  // namespace rorqual
