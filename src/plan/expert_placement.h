// Which expert each physical slot holds, from measured loads (spec 4): the expert parallelism load balancer. Heavy experts get
// copies, then slots are packed onto GPUs so that every GPU has as many slots and as equal a load as the rules reach.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "plan/dispatch.h"

namespace rorqual {

struct PlacementShape {
  int64_t experts = 0;
  int64_t replicas = 0;  // physical slots, at least `experts`
  int64_t groups = 1;    // of consecutive experts, as routing limits them
  int64_t nodes = 1;
  int64_t gpus = 1;  // in all nodes

  // A group's experts stay on one node. Otherwise placement is global: groups and nodes count for nothing.
  bool hierarchical() const { return groups % nodes == 0; }
};

// Error (usage) that names the rule which the sizes break: all positive, experts over groups, replicas over GPUs and, if
// hierarchical, GPUs over nodes divide; no fewer replicas than experts.
void check_placement_shape(const PlacementShape& shape);

// load: [experts], finite and not negative. All arithmetic is FP32; ties go to the lower index.
Placement place_experts(std::span<const float> load, const PlacementShape& shape);

// Loads of the GPUs when every expert's load is split evenly over its copies.
std::vector<double> gpu_loads(std::span<const float> load, const Placement& placement, int64_t gpus);  // [gpus]
// The same without copies: expert e on GPU e * gpus / experts.
std::vector<double> contiguous_gpu_loads(std::span<const float> load, int64_t gpus);
// The largest over the mean; 1 where nothing is loaded.
double max_over_mean(std::span<const double> loads);

namespace detail {
// Packs n items into `packs` packs of n / packs: by descending weight into the lightest pack that has room.
struct Packing {
  std::vector<int32_t> pack, rank;  // [n] the item's pack and its place there
};
Packing pack_balanced(std::span<const float> weight, int64_t packs);
// Gives n experts `replicas` >= n slots: one each, then one more to whichever has the largest load per copy.
struct Replication {
  std::vector<int32_t> expert, rank;  // [replicas]
  std::vector<int32_t> count;         // [n] copies
};
Replication replicate(std::span<const float> weight, int64_t replicas);
}  // namespace detail

}  // namespace rorqual
