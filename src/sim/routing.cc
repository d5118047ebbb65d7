#include "sim/routing.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <memory>
#include <numeric>

#include "base/error.h"
#include "base/rng.h"

namespace rorqual {
namespace {

constexpr int64_t kMostChoices = int64_t{1} << 20;  // that are drawn for one layer

// Draws from a fixed list of weights.
class Wheel {
 public:
  explicit Wheel(std::vector<double> weights) : ends_(std::move(weights)) {
    std::partial_sum(ends_.begin(), ends_.end(), ends_.begin());
  }
  double total() const { return ends_.back(); }
  size_t draw(double uniform) const {
    const auto it = std::upper_bound(ends_.begin(), ends_.end(), uniform * total());
    return std::min(static_cast<size_t>(it - ends_.begin()), ends_.size() - 1);
  }

 private:
  std::vector<double> ends_;
};

class Router {
 public:
  Router(const SimulatedModel& model, const std::vector<double>& loads, uint64_t seed)
      : model_(model), key_{.seed = seed, .purpose = RandomPurpose::kSimulate}, size_(model.experts / model.groups) {
    std::vector<double> weights(static_cast<size_t>(model.experts), 1.0);
    if (!loads.empty()) weights = loads;
    std::vector<double> sums;
    for (int64_t g = 0; g < model.groups; ++g) {
      const auto begin = weights.begin() + g * size_;
      experts_.emplace_back(std::vector<double>(begin, begin + size_));
      sums.push_back(experts_.back().total());
    }
    weights_ = std::move(weights);
    group_sums_ = sums;
    groups_ = std::make_unique<Wheel>(std::move(sums));
  }

  // [top_k], ascending.
  void choose(uint64_t token, std::vector<int32_t>& chosen) {
    draw_ = token << 12;
    groups_chosen_.clear();
    while (static_cast<int64_t>(groups_chosen_.size()) < model_.topk_groups) {
      size_t g = groups_->draw(next());
      for (int tries = 0; contains(groups_chosen_, g); ++tries)
        g = tries < 32 ? groups_->draw(next()) : (g + 1) % experts_.size();
      groups_chosen_.push_back(g);
    }
    double total = 0;
    for (const size_t g : groups_chosen_) total += group_sums_[g];
    chosen.clear();
    while (static_cast<int64_t>(chosen.size()) < model_.top_k) {
      int32_t e = draw_expert(total);
      for (int tries = 0; contains(chosen, e); ++tries) e = tries < 64 ? draw_expert(total) : heaviest_left(chosen);
      chosen.push_back(e);
    }
    std::sort(chosen.begin(), chosen.end());
  }

 private:
  template <class T>
  static bool contains(const std::vector<T>& list, T value) {
    return std::find(list.begin(), list.end(), value) != list.end();
  }
  double next() { return random_uniform(key_, draw_++); }
  int32_t draw_expert(double total) {
    double at = next() * total;
    size_t i = 0;
    while (i + 1 < groups_chosen_.size() && at >= group_sums_[groups_chosen_[i]]) at -= group_sums_[groups_chosen_[i++]];
    const size_t g = groups_chosen_[i];
    return static_cast<int32_t>(static_cast<int64_t>(g) * size_ + static_cast<int64_t>(experts_[g].draw(next())));
  }
  int32_t heaviest_left(const std::vector<int32_t>& chosen) const {
    int32_t best = -1;
    for (const size_t g : groups_chosen_) {
      for (int64_t e = static_cast<int64_t>(g) * size_; e < static_cast<int64_t>(g + 1) * size_; ++e) {
        const auto expert = static_cast<int32_t>(e);
        if (contains(chosen, expert)) continue;
        if (best < 0 || weights_[static_cast<size_t>(e)] > weights_[static_cast<size_t>(best)]) best = expert;
      }
    }
    CHECK(best >= 0);
    return best;
  }

  const SimulatedModel& model_;
  RandomKey key_;
  int64_t size_;  // experts of a group
  uint64_t draw_ = 0;
  std::vector<double> weights_, group_sums_;
  std::unique_ptr<Wheel> groups_;
  std::vector<Wheel> experts_;  // [groups]
  std::vector<size_t> groups_chosen_;
};

void count_links(const DispatchShape& shape, const std::vector<SendPlan>& sends, double tokens, ExchangeLoad& load) {
  const LinkRows links = count_link_rows(shape, sends);
  const auto ranks = static_cast<size_t>(shape.ranks), per_node = static_cast<size_t>(shape.ranks_per_node);
  const size_t nodes = ranks / per_node;
  std::vector<double> network_out(ranks), network_in(ranks), nvlink_out(ranks), nvlink_in(ranks);
  for (size_t r = 0; r < ranks; ++r) {
    for (size_t n = 0; n < nodes; ++n) {
      const auto rows = static_cast<double>(links.network[r * nodes + n]);
      network_out[r] += rows;
      network_in[n * per_node + r % per_node] += rows;
    }
    for (size_t i = 0; i < per_node; ++i) {
      const auto rows = static_cast<double>(links.nvlink[r * per_node + i]);
      nvlink_out[r] += rows;
      nvlink_in[r / per_node * per_node + i] += rows;
    }
    load.network_own_node +=
        static_cast<double>(sends[r].tokens_per_node[r / per_node]) / (tokens * static_cast<double>(ranks));
  }
  const auto worst = [&](const std::vector<double>& out, const std::vector<double>& in) {
    return std::max(*std::max_element(out.begin(), out.end()), *std::max_element(in.begin(), in.end())) / tokens;
  };
  const auto mean = [&](const std::vector<double>& rows) {
    return std::accumulate(rows.begin(), rows.end(), 0.0) / (tokens * static_cast<double>(ranks));
  };
  load.network_worst = worst(network_out, network_in);
  load.nvlink_worst = worst(nvlink_out, nvlink_in);
  load.network_mean = mean(network_out);
  load.nvlink_mean = mean(nvlink_out);
}

}  // namespace

RoutingLoads parse_routing(const std::string& text, int64_t experts) {
  RoutingLoads routing;
  if (text == "balanced") return routing;
  double exponent = -1;
  const char* end = text.data() + text.size();
  if (!text.starts_with("zipf:") || std::from_chars(text.data() + 5, end, exponent).ptr != end || !std::isfinite(exponent) ||
      exponent < 0 || exponent > 10)
    fail_usage("routing '{}': take balanced, zipf:S with S from 0 to 10, or a file of loads", text);
  std::vector<double> loads(static_cast<size_t>(experts));
  std::vector<size_t> order(loads.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const RandomKey key{.seed = routing.seed, .purpose = RandomPurpose::kSimulate, .layer = 1};
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random_below(key, i, i)]);
  for (size_t i = 0; i < order.size(); ++i) loads[order[i]] = std::pow(static_cast<double>(i + 1), -exponent);
  routing.layers.push_back(std::move(loads));
  return routing;
}

void validate(const RoutingLoads& routing, int64_t layers, int64_t experts) {
  if (routing.layers.empty()) return;
  const auto rows = static_cast<int64_t>(routing.layers.size());
  if (rows != 1 && rows != layers)
    fail_usage("loads of {} layers: the model has {} with experts (or give one row)", rows, layers);
  for (const auto& loads : routing.layers) {
    if (static_cast<int64_t>(loads.size()) != experts)
      fail_usage("loads of {} experts in a layer: the model has {}", loads.size(), experts);
    double sum = 0;
    for (const double load : loads) {
      if (!std::isfinite(load) || load < 0) fail_usage("a load of {}: loads are numbers from 0 on", load);
      sum += load;
    }
    if (sum <= 0) fail_usage("all loads of a layer are 0: give relative loads of its experts");
  }
}

double ExchangeLoad::max_over_mean(int64_t ranks) const {
  const size_t per = rows.size() / static_cast<size_t>(ranks);
  double most = 0, sum = 0;
  for (size_t r = 0; r < static_cast<size_t>(ranks); ++r) {
    const auto begin = rows.begin() + static_cast<int64_t>(r * per);
    const double own = std::accumulate(begin, begin + static_cast<int64_t>(per), 0.0);
    most = std::max(most, own);
    sum += own;
  }
  return sum > 0 ? most * static_cast<double>(ranks) / sum : 1;
}

ExchangeLoad exchange_load(const SimulatedModel& model, const Mesh& mesh, int64_t tokens, const std::vector<double>& loads,
                           uint64_t seed) {
  const DispatchShape shape{.ranks = mesh.ep, .ranks_per_node = mesh.ep_per_node(), .slots = model.experts};
  const int64_t sampled = std::clamp<int64_t>(kMostChoices / (mesh.ep * model.top_k), 1, tokens);
  Router router(model, loads, seed);
  std::vector<SendPlan> sends;
  std::vector<int32_t> slots, chosen;
  ExchangeLoad load;
  load.rows.resize(static_cast<size_t>(model.experts));
  for (int64_t r = 0; r < mesh.ep; ++r) {
    slots.clear();
    for (int64_t t = 0; t < sampled; ++t) {
      router.choose(static_cast<uint64_t>(r * sampled + t), chosen);
      slots.insert(slots.end(), chosen.begin(), chosen.end());
    }
    sends.push_back(plan_send(slots, sampled, model.top_k, shape));
    for (size_t e = 0; e < load.rows.size(); ++e)
      load.rows[e] += static_cast<double>(sends.back().rows_per_slot[e]) / static_cast<double>(sampled * mesh.ep);
  }
  count_links(shape, sends, static_cast<double>(sampled), load);
  return load;
}

}  // namespace rorqual
