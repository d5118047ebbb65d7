#include "plan/replica_bound.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "base/error.h"

namespace rorqual {
namespace {

// Combinations of one token's copies that are tried together; choices beyond pay their price but no node, which keeps a bound.
constexpr int64_t kMostCombinations = 1024;

class Relaxation {
 public:
  Relaxation(const ReplicaMap& map, std::span<const TokenChoices> batches, int64_t largest_load)
      : map_(map),
        batches_(batches),
        largest_(static_cast<double>(largest_load)),
        price_(static_cast<size_t>(map.gpus)),
        load_(price_.size()) {
    for (const int32_t g : map.gpu) bit_.push_back(uint64_t{1} << (g / map.gpus_per_node));
  }

  // The bound under the prices of now; load_ is what GPUs would get.
  double evaluate() {
    std::fill(load_.begin(), load_.end(), 0.0);
    double sum = 0;
    for (const double p : price_) sum -= p * largest_;
    for (const TokenChoices& batch : batches_) {
      const auto k = static_cast<size_t>(batch.top_k);
      for (size_t first = 0; first < batch.expert.size(); first += k)
        sum += cheapest(batch.expert.subspan(first, k), batch.gpu);
    }
    return sum;
  }

  // Prices rise where GPUs get too much and fall, to 0 at least, where they get less.
  void follow(double missing) {
    double norm = 0;
    for (size_t g = 0; g < price_.size(); ++g) {
      load_[g] -= largest_;
      if (load_[g] > 0 || price_[g] > 0) norm += load_[g] * load_[g];
    }
    if (norm <= 0) return;
    for (size_t g = 0; g < price_.size(); ++g) price_[g] = std::max(0.0, price_[g] + missing / norm * load_[g]);
  }

 private:
  double cheapest(std::span<const int32_t> experts, int64_t gpu) {
    joint_.clear();
    chosen_.clear();
    double sum = 0;
    uint64_t nodes = uint64_t{1} << (gpu / map_.gpus_per_node);
    const uint64_t own = nodes;
    int64_t combinations = 1;
    for (const int32_t e : experts) {
      if (e < 0) continue;
      const auto i = static_cast<size_t>(e);
      const int64_t options = map_.options(i);
      if (options == 1) {
        const auto o = static_cast<size_t>(map_.option_begin[i]);
        nodes |= bit_[o];
        sum += price_[static_cast<size_t>(map_.gpu[o])];
        chosen_.push_back(map_.gpu[o]);
      } else if (combinations * options <= kMostCombinations) {
        combinations *= options;
        joint_.push_back(e);
      } else {
        double least = 1e300;
        int32_t at = 0;
        for (auto o = static_cast<size_t>(map_.option_begin[i]); o < static_cast<size_t>(map_.option_begin[i + 1]); ++o) {
          if (price_[static_cast<size_t>(map_.gpu[o])] >= least) continue;
          least = price_[static_cast<size_t>(map_.gpu[o])];
          at = map_.gpu[o];
        }
        sum += least;
        chosen_.push_back(at);
      }
    }
    best_ = 1e300;
    trial_.resize(joint_.size());
    descend(0, nodes, std::popcount(nodes & ~own));
    for (const int32_t g : chosen_) load_[static_cast<size_t>(g)] += 1;
    for (const int32_t g : best_gpus_) load_[static_cast<size_t>(g)] += 1;
    return sum + best_;
  }

  void descend(size_t i, uint64_t nodes, double cost) {
    if (cost >= best_) return;
    if (i == joint_.size()) {
      best_ = cost;
      best_gpus_ = trial_;
      return;
    }
    const auto e = static_cast<size_t>(joint_[i]);
    for (auto o = static_cast<size_t>(map_.option_begin[e]); o < static_cast<size_t>(map_.option_begin[e + 1]); ++o) {
      trial_[i] = map_.gpu[o];
      descend(i + 1, nodes | bit_[o], cost + price_[static_cast<size_t>(map_.gpu[o])] + ((nodes & bit_[o]) == 0 ? 1 : 0));
    }
  }

  const ReplicaMap& map_;
  std::span<const TokenChoices> batches_;
  double largest_;
  std::vector<double> price_, load_;  // [gpus]
  std::vector<uint64_t> bit_;         // [options] of the node
  std::vector<int32_t> joint_, chosen_, trial_, best_gpus_;
  double best_ = 0;
};

}  // namespace

int64_t bound_network_rows(const ReplicaMap& map, std::span<const TokenChoices> batches, int64_t largest_load, int64_t found,
                           int64_t rounds) {
  CHECK(map.gpus / map.gpus_per_node <= 64, "more than 64 nodes");
  Relaxation relaxation(map, batches, largest_load);
  double best = 0, scale = 1;
  int64_t since = 0;
  for (int64_t round = 0; round < rounds; ++round) {
    const double bound = relaxation.evaluate();
    since = bound > best ? 0 : since + 1;
    best = std::max(best, bound);
    if (since == 5) {
      scale /= 2;
      since = 0;
    }
    relaxation.follow(scale * (static_cast<double>(found) - bound));
  }
  return static_cast<int64_t>(std::ceil(best - 1e-6 * std::max(1.0, best)));
}

}  // namespace rorqual
