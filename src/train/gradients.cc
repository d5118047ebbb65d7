#include "train/gradients.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/elementwise/elementwise.h"

namespace rorqual {
namespace {

void zero(const Tensor& t, const Stream& stream) {
  constexpr int64_t kBlock = 1 << 20;
  stream.parallel((t.bytes() + kBlock - 1) / kBlock, [&](int64_t i) {
    std::memset(static_cast<std::byte*>(t.data) + i * kBlock, 0, static_cast<size_t>(std::min(kBlock, t.bytes() - i * kBlock)));
  });
}

bool power_of_two(int64_t n) {
  return n > 0 && std::has_single_bit(static_cast<uint64_t>(n));
}

}  // namespace

GradientAccumulators::GradientAccumulators(const Weights& weights, const ModelConfig& config, int64_t lanes, int64_t lane_group,
                                           Arena& arena)
    : weights_(weights), layout_(weights.list(), config), lanes_(lanes), lane_group_(lane_group) {
  if (!power_of_two(lanes)) fail_usage("grad_lanes = {} must be a power of two", lanes);
  if (!power_of_two(lane_group) || lane_group > lanes)
    fail_usage("expert_lane_group = {} must be a power of two, at most grad_lanes = {}", lane_group, lanes);
  // The open group, and one finished subtotal per level of the tree that can wait.
  const auto levels = static_cast<size_t>(std::bit_width(static_cast<uint64_t>(lanes / lane_group)) - 1);
  for (size_t i = 0; i < levels + 1; ++i) {
    flats_.push_back(make(arena, true));
    if (i > 0) free_.push_back(i);
  }
  for (int64_t lane = 1; lane < lane_group; ++lane) lane_dense_.push_back(make(arena, false).dense);
}

GradientAccumulators::Flat GradientAccumulators::make(Arena& arena, bool expert) const {
  const DType full = weights_.precision().full;
  Flat f;
  f.dense = arena.tensor(MemoryClass::kGradients, full, 1, layout_.dense_elements());
  if (expert) f.expert = arena.tensor(MemoryClass::kGradients, full, 1, layout_.expert_elements());
  return f;
}

void GradientAccumulators::begin_group(const Stream& stream) {
  zero(flats_[open_].dense, stream);
  zero(flats_[open_].expert, stream);
  for (const Tensor& t : lane_dense_) zero(t, stream);
}

GradientBuffer GradientAccumulators::buffer(int64_t lane) const {
  const int64_t i = lane % lane_group_;
  return {&weights_.list(), &layout_, i == 0 ? flats_[open_].dense : lane_dense_[static_cast<size_t>(i - 1)],
          flats_[open_].expert};
}

void GradientAccumulators::end_group(const Stream& stream) {
  for (int64_t stride = 1; stride < lane_group_; stride *= 2)
    for (int64_t i = 0; i + stride < lane_group_; i += 2 * stride) add_into(buffer(i).dense, buffer(i + stride).dense, stream);
  tree_.push_back({0, open_});
  while (tree_.size() >= 2 && tree_[tree_.size() - 1].level == tree_[tree_.size() - 2].level) {
    const Subtotal right = tree_.back();
    tree_.pop_back();
    Subtotal& left = tree_.back();
    add_into(flats_[left.flat].dense, flats_[right.flat].dense, stream);
    add_into(flats_[left.flat].expert, flats_[right.flat].expert, stream);
    ++left.level;
    free_.push_back(right.flat);
  }
  if (free_.empty()) return;  // the last group: nothing follows it
  open_ = free_.back();
  free_.pop_back();
}

GradientBuffer GradientAccumulators::total(const Stream& stream) {
  CHECK(tree_.size() == 1, "{} subtotals: not every group of lanes was walked", tree_.size());
  const Flat& f = flats_[tree_.back().flat];
  if (open_ != tree_.back().flat) free_.push_back(open_);
  open_ = tree_.back().flat;
  tree_.clear();
  const GradientBuffer total{&weights_.list(), &layout_, f.dense, f.expert};
  for (const GradientUse& use : layout_.extra_uses()) {
    const Tensor own = total.of(use.tensor);
    add_into({own.data, own.dtype, 1, own.count()}, f.dense.col_range(use.offset, own.count()), stream);
  }
  return total;
}

}  // namespace rorqual
