#include "plan/placement_change.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <numeric>
#include <utility>

#include "base/error.h"

namespace rorqual {
namespace {

size_t at(int64_t i) {
  return static_cast<size_t>(i);
}

// Pairs each of n targets with one of n sources, largest overlap first; ties to the lower target, then source. [targets]
std::vector<size_t> pair_by_overlap(size_t n, const std::vector<int64_t>& overlap) {
  std::vector<size_t> order(n * n), source(n, n);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return overlap[a] > overlap[b]; });
  std::vector<char> used(n);
  for (const size_t pair : order) {
    if (source[pair / n] != n || used[pair % n]) continue;
    source[pair / n] = pair % n;
    used[pair % n] = 1;
  }
  return source;
}

// Experts that two runs of slots have in common, copies counted.
int64_t common(std::span<const int32_t> a, std::span<const int32_t> b) {
  std::vector<int32_t> x(a.begin(), a.end()), y(b.begin(), b.end()), both;
  std::sort(x.begin(), x.end());
  std::sort(y.begin(), y.end());
  std::set_intersection(x.begin(), x.end(), y.begin(), y.end(), std::back_inserter(both));
  return static_cast<int64_t>(both.size());
}

// Cuts both into runs of `size` slots and says which run of `to` should take the place of each run of `from`.
std::vector<size_t> pair_runs(std::span<const int32_t> from, std::span<const int32_t> to, size_t size) {
  const size_t n = from.size() / size;
  std::vector<int64_t> overlap;
  for (size_t f = 0; f < n; ++f) {
    for (size_t t = 0; t < n; ++t) overlap.push_back(common(from.subspan(f * size, size), to.subspan(t * size, size)));
  }
  return pair_by_overlap(n, overlap);
}

// A GPU's new experts, those that it holds already in their old slots.
void settle_slots(std::span<const int32_t> from, std::span<const int32_t> to, std::span<int32_t> out) {
  std::vector<int32_t> left(to.begin(), to.end());
  std::fill(out.begin(), out.end(), -1);
  for (size_t s = 0; s < from.size(); ++s) {
    const auto same = std::find(left.begin(), left.end(), from[s]);
    if (same == left.end()) continue;
    out[s] = from[s];
    left.erase(same);
  }
  size_t next = 0;
  for (int32_t& e : out) {
    if (e < 0) e = left[next++];
  }
}

// Steepest descent on the sum of a power of the GPUs' loads, with the number of moved slots kept within the budget.
class Descent {
 public:
  Descent(std::span<const float> load, const PlacementShape& shape, const Placement& last, int64_t max_moves, int squarings)
      : gpus_(at(shape.gpus)),
        domains_(shape.hierarchical() ? at(shape.nodes) : 1),
        squarings_(squarings),
        max_moves_(max_moves),
        weight_(load.begin(), load.end()),
        expert_(last.expert_of_slot),
        copies_(load.size()),
        per_(expert_.size() / gpus_),
        held_(gpus_ * load.size()),
        last_held_(held_.size()) {
    for (size_t s = 0; s < expert_.size(); ++s) {
      ++copies_[at(expert_[s])];
      ++held_[cell(s / per_, expert_[s])];
    }
    last_held_ = held_;
    const double total = std::accumulate(weight_.begin(), weight_.end(), 0.0);
    if (total > 0) {
      for (double& w : weight_) w *= static_cast<double>(gpus_) / total;  // mean GPU load 1: powers stay near 1
    }
    loads_ = loads();
  }

  // The best placement on the way, by its largest load.
  std::vector<int32_t> run() {
    std::vector<int32_t> best = expert_;
    double least = *std::max_element(loads_.begin(), loads_.end());
    while (step()) {
      const double largest = *std::max_element(loads_.begin(), loads_.end());
      if (largest >= least) continue;
      least = largest;
      best = expert_;
    }
    return best;
  }

 private:
  struct Change {  // slot a gets expert x; with b a slot, slot b gets expert y
    size_t a = 0, b = SIZE_MAX;
    int32_t x = 0, y = 0;
  };

  size_t cell(size_t gpu, int32_t e) const { return gpu * weight_.size() + at(e); }
  double power(double x) const {
    for (int i = 0; i < squarings_; ++i) x *= x;
    return x;
  }
  double share(int32_t e) const { return weight_[at(e)] / copies_[at(e)]; }
  std::vector<double> loads() const {
    std::vector<double> out(gpus_);
    for (size_t s = 0; s < expert_.size(); ++s) out[s / per_] += share(expert_[s]);
    return out;
  }

  // Slots moved more (fewer) if `gpu` exchanges expert `out` for `in`.
  int64_t moves_more(size_t gpu, int32_t out, int32_t in) const {
    return (held_[cell(gpu, in)] >= last_held_[cell(gpu, in)] ? 1 : 0) -
           (held_[cell(gpu, out)] > last_held_[cell(gpu, out)] ? 1 : 0);
  }

  void add(size_t gpu, double load) {
    const auto known = std::find_if(touched_.begin(), touched_.end(), [&](const auto& t) { return t.first == gpu; });
    if (known == touched_.end()) {
      touched_.emplace_back(gpu, load);
    } else {
      known->second += load;
    }
  }
  // How far the power sum falls.
  double fall() const {
    double sum = 0;
    for (const auto& [gpu, load] : touched_) sum += power(loads_[gpu]) - power(loads_[gpu] + load);
    return sum;
  }

  void consider(const Change& change, int64_t more) {
    if (moved_ + more > max_moves_) return;
    const double gain = fall(), value = gain / static_cast<double>(std::max<int64_t>(more, 1));
    if (gain <= 1e-12 || value <= best_value_) return;
    best_value_ = value;
    best_ = change;
  }

  void consider_copies(size_t slot, size_t first, size_t end) {
    const int32_t a = expert_[slot];
    const size_t gpu = slot / per_;
    if (copies_[at(a)] < 2) return;
    const double a_more = weight_[at(a)] / (copies_[at(a)] - 1) - share(a);
    for (int32_t b = 0; b < static_cast<int32_t>(weight_.size()); ++b) {
      if (b == a || node_of_expert_[at(b)] != first) continue;
      const double b_new = weight_[at(b)] / (copies_[at(b)] + 1), b_less = b_new - share(b);
      touched_.clear();
      add(gpu, b_new - share(a));
      for (size_t s = first; s < end; ++s) {
        if (s != slot && expert_[s] == a) add(s / per_, a_more);
        if (expert_[s] == b) add(s / per_, b_less);
      }
      consider({slot, SIZE_MAX, b, 0}, moves_more(gpu, a, b));
    }
  }

  void consider_exchanges(size_t slot, size_t end) {
    for (size_t other = (slot / per_ + 1) * per_; other < end; ++other) {
      const int32_t a = expert_[slot], b = expert_[other];
      if (a == b) continue;
      const double d = share(b) - share(a);
      touched_.clear();
      touched_.emplace_back(slot / per_, d);
      touched_.emplace_back(other / per_, -d);
      consider({slot, other, b, a}, moves_more(slot / per_, a, b) + moves_more(other / per_, b, a));
    }
  }

  void put(size_t slot, int32_t e) {
    const size_t gpu = slot / per_;
    moved_ += moves_more(gpu, expert_[slot], e);
    --held_[cell(gpu, expert_[slot])];
    ++held_[cell(gpu, e)];
    --copies_[at(expert_[slot])];
    ++copies_[at(e)];
    expert_[slot] = e;
  }

  bool step() {
    best_value_ = 0;
    const size_t size = expert_.size() / domains_;
    node_of_expert_.assign(weight_.size(), 0);
    for (size_t s = 0; s < expert_.size(); ++s) node_of_expert_[at(expert_[s])] = s / size * size;
    for (size_t first = 0; first < expert_.size(); first += size) {
      for (size_t s = first; s < first + size; ++s) {
        consider_copies(s, first, first + size);
        consider_exchanges(s, first + size);
      }
    }
    if (best_value_ <= 0) return false;
    put(best_.a, best_.x);
    if (best_.b != SIZE_MAX) put(best_.b, best_.y);
    loads_ = loads();
    return true;
  }

  size_t gpus_, domains_;
  int squarings_;
  int64_t max_moves_, moved_ = 0;
  std::vector<double> weight_;
  std::vector<int32_t> expert_, copies_;
  size_t per_;
  std::vector<int32_t> held_, last_held_;  // [gpus, experts] copies
  std::vector<double> loads_;
  std::vector<size_t> node_of_expert_;              // its node's first slot
  std::vector<std::pair<size_t, double>> touched_;  // GPUs whose load changes
  Change best_;
  double best_value_ = 0;
};

double largest_load(std::span<const float> load, const Placement& placement, int64_t gpus) {
  const std::vector<double> loads = gpu_loads(load, placement, gpus);
  return *std::max_element(loads.begin(), loads.end());
}

}  // namespace

std::vector<int64_t> moved_slots(const Placement& from, const Placement& to, int64_t gpus) {
  CHECK(from.slots == to.slots && from.slots % gpus == 0);
  const size_t per = at(from.slots / gpus);
  std::vector<int64_t> moved;
  for (size_t first = 0; first < from.expert_of_slot.size(); first += per) {
    moved.push_back(static_cast<int64_t>(per) - common(std::span(from.expert_of_slot).subspan(first, per),
                                                       std::span(to.expert_of_slot).subspan(first, per)));
  }
  return moved;
}

Placement keep_in_place(const Placement& from, const Placement& to, int64_t gpus, int64_t nodes) {
  CHECK(from.slots == to.slots && from.experts() == to.experts() && from.slots % gpus == 0 && gpus % nodes == 0);
  const size_t node_size = at(from.slots / nodes), gpu_size = at(from.slots / gpus);
  const std::span<const int32_t> old = from.expert_of_slot, fresh = to.expert_of_slot;
  std::vector<int32_t> out(old.size());
  const std::vector<size_t> node = pair_runs(old, fresh, node_size);
  for (size_t n = 0; n < node.size(); ++n) {
    const auto old_node = old.subspan(n * node_size, node_size), new_node = fresh.subspan(node[n] * node_size, node_size);
    const std::vector<size_t> gpu = pair_runs(old_node, new_node, gpu_size);
    for (size_t g = 0; g < gpu.size(); ++g) {
      settle_slots(old_node.subspan(g * gpu_size, gpu_size), new_node.subspan(gpu[g] * gpu_size, gpu_size),
                   std::span(out).subspan(n * node_size + g * gpu_size, gpu_size));
    }
  }
  Placement kept = replicated_placement(std::move(out), from.experts(), 1);
  kept.logical_node_of_expert = from.logical_node_of_expert;
  return kept;
}

Placement place_experts_near(std::span<const float> load, const PlacementShape& shape, const Placement& last,
                             int64_t max_moves) {
  check_placement_shape(shape);
  CHECK(last.slots == shape.replicas && last.experts() == shape.experts && static_cast<int64_t>(load.size()) == shape.experts);
  Placement best = last;
  double least = largest_load(load, last, shape.gpus);
  const auto offer = [&](const Placement& candidate) {
    const std::vector<int64_t> moved = moved_slots(last, candidate, shape.gpus);
    const double largest = largest_load(load, candidate, shape.gpus);
    if (std::accumulate(moved.begin(), moved.end(), int64_t{0}) > max_moves || largest >= least) return;
    least = largest;
    best = candidate;
  };
  offer(keep_in_place(last, place_experts(load, shape), shape.gpus, shape.hierarchical() ? shape.nodes : 1));
  for (const int squarings : {2, 4}) {  // the 4th power spreads evenly, the 16th watches the largest
    Placement found = replicated_placement(Descent(load, shape, last, max_moves, squarings).run(), shape.experts, 1);
    found.logical_node_of_expert = last.logical_node_of_expert;
    offer(keep_in_place(last, found, shape.gpus, shape.gpus));
  }
  return best;
}

namespace {

std::vector<float> forecast(std::span<const std::vector<float>> history, double half_life) {
  std::vector<double> sum(history.back().size());
  double weight = 1, total = 0;
  for (size_t i = history.size(); i-- > 0; weight *= std::exp2(-1 / half_life)) {
    CHECK(history[i].size() == sum.size());
    for (size_t e = 0; e < sum.size(); ++e) sum[e] += weight * static_cast<double>(history[i][e]);
    total += weight;
  }
  std::vector<float> out;
  for (const double s : sum) out.push_back(static_cast<float>(s / total));
  return out;
}

// What past rebalances would have saved, less one standard error, over what they would have predicted.
double trust_in(std::span<const std::vector<float>> history, const PlacementShape& shape, const Placement& current,
                double half_life) {
  constexpr size_t kMostIntervals = 16;
  double predicted = 0, saved = 0, squares = 0, n = 0;
  for (size_t i = std::max<size_t>(1, history.size() - std::min(history.size(), kMostIntervals)); i < history.size();
       ++i, ++n) {
    const std::vector<float> expected = forecast(history.first(i), half_life);
    const Placement fresh = place_experts(expected, shape);
    predicted += std::max(0.0, largest_load(expected, current, shape.gpus) - largest_load(expected, fresh, shape.gpus));
    const double s = largest_load(history[i], current, shape.gpus) - largest_load(history[i], fresh, shape.gpus);
    saved += s;
    squares += s * s;
  }
  if (predicted <= 0) return 1;
  const double error = n > 1 ? std::sqrt(std::max(0.0, squares - saved * saved / n) * n / (n - 1)) : 0;  // of the sum
  return std::clamp((saved - error) / predicted, 0.0, 1.0);
}

}  // namespace

RebalanceDecision decide_rebalance(std::span<const std::vector<float>> history, const PlacementShape& shape,
                                   const Placement& current, const RebalanceModel& model) {
  CHECK(!history.empty() && model.bytes_per_second > 0 && model.half_life_intervals > 0);
  RebalanceDecision decision;
  decision.placement = current;
  decision.trust = trust_in(history, shape, current, model.half_life_intervals);
  const std::vector<float> expected = forecast(history, model.half_life_intervals);
  const double now = largest_load(expected, current, shape.gpus);
  double best = 0;
  for (int64_t budget = 1;; budget = std::min(budget * 2, shape.replicas)) {
    const Placement candidate = place_experts_near(expected, shape, current, budget);
    const std::vector<int64_t> moved = moved_slots(current, candidate, shape.gpus);
    const double gain = decision.trust * model.horizon_intervals * model.seconds_per_row *
                        (now - largest_load(expected, candidate, shape.gpus));
    const double cost =
        static_cast<double>(*std::max_element(moved.begin(), moved.end())) * model.bytes_per_expert / model.bytes_per_second;
    if (gain - cost > best) {
      best = gain - cost;
      decision.rebalance = true;
      decision.placement = candidate;
      decision.moves = std::accumulate(moved.begin(), moved.end(), int64_t{0});
      decision.gain_seconds = gain;
      decision.cost_seconds = cost;
    }
    if (budget == shape.replicas) break;
  }
  return decision;
}

}  // namespace rorqual
