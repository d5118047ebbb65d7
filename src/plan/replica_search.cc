#include "plan/replica_search.h"

#include <algorithm>

#include "base/error.h"

namespace rorqual {
namespace {

// Choices of one GPU that a chain looks at: a bound for large batches, where the first ones serve as well as others.
constexpr size_t kMostScanned = 128;

class Search {
 public:
  Search(const ReplicaMap& map, std::span<const int32_t> expert, int64_t top_k, std::span<const int32_t> own_node,
         std::vector<int64_t> room, const ReplicaSearch& limits, std::span<int32_t> option)
      : map_(map),
        expert_(expert),
        k_(at(top_k)),
        own_(own_node),
        room_(std::move(room)),
        limits_(limits),
        option_(option),
        movable_(room_.size()),
        place_(option.size(), -1),
        reached_(room_.size(), 0),
        reached_cost_(room_.size(), 0) {
    for (size_t c = 0; c < option_.size(); ++c) {
      if (expert_[c] >= 0 && map_.options(at(expert_[c])) > 1) enter(c);
    }
  }

  void run() {
    const size_t tokens = option_.size() / k_;
    for (int64_t round = 0; round < limits_.rounds; ++round) {
      bool changed = false;
      for (size_t t = 0; t < tokens; ++t) {
        while (improve(t)) changed = true;
      }
      if (!changed) break;
    }
  }

 private:
  struct Move {
    size_t choice;
    int32_t from;
  };
  struct Step {  // of a chain: `choice` goes to `to`
    size_t choice;
    int32_t to, parent, cost;
  };
  struct Combination {
    int32_t gain, number;
  };

  static size_t at(int64_t i) { return static_cast<size_t>(i); }
  size_t gpu_of(size_t choice) const { return at(map_.gpu[at(option_[choice])]); }
  bool many_nodes(size_t choice) const {
    const size_t e = at(expert_[choice]);
    return map_.node(at(map_.option_begin[e])) != map_.node(at(map_.option_begin[e + 1]) - 1);
  }

  void enter(size_t choice) {
    auto& list = movable_[gpu_of(choice)];
    place_[choice] = static_cast<int32_t>(list.size());
    list.push_back(choice);
  }
  void leave(size_t choice) {
    auto& list = movable_[gpu_of(choice)];
    const auto i = at(place_[choice]);
    list[i] = list.back();
    place_[list[i]] = static_cast<int32_t>(i);
    list.pop_back();
  }
  void set_option(size_t choice, int32_t to) {
    ++room_[gpu_of(choice)];
    leave(choice);
    option_[choice] = to;
    enter(choice);
    --room_[gpu_of(choice)];
  }

  // How many nodes more the token visits if this choice takes `to`.
  int32_t cost(size_t choice, int32_t to) const {
    const size_t t = choice / k_;
    const int32_t a = map_.node(at(option_[choice])), b = map_.node(at(to));
    if (a == b) return 0;
    bool a_stays = a == own_[t], b_there = b == own_[t];
    for (size_t c = t * k_; c < (t + 1) * k_; ++c) {
      if (c == choice || option_[c] < 0) continue;
      const int32_t n = map_.node(at(option_[c]));
      a_stays |= n == a;
      b_there |= n == b;
    }
    return (b_there ? 0 : 1) - (a_stays ? 0 : 1);
  }

  int32_t remote_nodes(size_t t, std::span<const int32_t> options) {
    nodes_.clear();
    for (const int32_t o : options) {
      if (o < 0) continue;
      const int32_t n = map_.node(at(o));
      if (n != own_[t] && std::find(nodes_.begin(), nodes_.end(), n) == nodes_.end()) nodes_.push_back(n);
    }
    return static_cast<int32_t>(nodes_.size());
  }

  // Writes combination `number` of the free choices' options into trial_; false beyond the last.
  bool combine(size_t first, int32_t number) {
    for (const size_t c : free_) {
      const size_t e = at(expert_[c]);
      const auto options = static_cast<int32_t>(map_.options(e));
      trial_[c - first] = map_.option_begin[e] + number % options;
      number /= options;
    }
    return number == 0;
  }

  // Finds the token's cheaper combinations and takes the first that others can make room for.
  bool improve(size_t t) {
    const size_t first = t * k_;
    const std::span<const int32_t> now = option_.subspan(first, k_);
    free_.clear();
    bool hope = false;
    for (size_t c = first; c < first + k_; ++c) {
      if (place_[c] < 0 || !many_nodes(c)) continue;
      free_.push_back(c);
      hope |= map_.node(at(option_[c])) != own_[t];
    }
    if (!hope) return false;
    const int32_t visited = remote_nodes(t, now);
    trial_.assign(now.begin(), now.end());
    combinations_.clear();
    for (int32_t n = 0; n < limits_.combinations && combine(first, n); ++n) {
      const int32_t gain = visited - remote_nodes(t, trial_);
      if (gain > 0) combinations_.push_back({gain, n});
    }
    std::stable_sort(combinations_.begin(), combinations_.end(), [](const auto& a, const auto& b) { return a.gain > b.gain; });
    for (const Combination& c : combinations_) {
      if (attempt(t, c)) return true;
    }
    return false;
  }

  bool attempt(size_t t, const Combination& combination) {
    log_.clear();
    combine(t * k_, combination.number);
    int32_t total = -combination.gain;
    for (const size_t c : free_) {
      if (trial_[c - t * k_] != option_[c]) take(c, trial_[c - t * k_]);
    }
    for (const size_t c : free_) {
      while (total < 0 && room_[gpu_of(c)] < 0 && make_room(gpu_of(c), t, -1 - total)) total += chain_cost_;
    }
    const bool fits = std::all_of(free_.begin(), free_.end(), [&](size_t c) { return room_[gpu_of(c)] >= 0; });
    if (fits && total < 0) return true;
    for (; !log_.empty(); log_.pop_back()) set_option(log_.back().choice, log_.back().from);
    return false;
  }

  void take(size_t choice, int32_t to) {
    log_.push_back({choice, option_[choice]});
    set_option(choice, to);
  }

  // Moves one choice away from `gpu`, another from where that one goes, and so on to a GPU with room, for at most `budget`
  // nodes more; tokens other than `held`. chain_cost_ says what it cost.
  bool make_room(size_t gpu, size_t held, int32_t budget) {
    ++epoch_;
    steps_.clear();
    reached_[gpu] = epoch_;
    reached_cost_[gpu] = -1000;
    size_t begin = 0;
    for (int64_t hop = 0; hop < limits_.hops; ++hop) {
      const size_t end = steps_.size();
      if (hop == 0) {
        if (expand(gpu, -1, 0, held, budget)) return true;
      } else {
        for (size_t s = begin; s < end; ++s) {
          if (expand(at(map_.gpu[at(steps_[s].to)]), static_cast<int32_t>(s), steps_[s].cost, held, budget)) return true;
        }
      }
      begin = end;
    }
    return false;
  }

  bool expand(size_t gpu, int32_t parent, int32_t cost_so_far, size_t held, int32_t budget) {
    const auto& list = movable_[gpu];
    for (size_t i = 0; i < std::min(list.size(), kMostScanned); ++i) {
      const size_t c = list[i], e = at(expert_[c]);
      if (c / k_ == held) continue;
      for (int32_t o = map_.option_begin[e]; o < map_.option_begin[e + 1]; ++o) {
        if (o == option_[c]) continue;
        const size_t to = at(map_.gpu[at(o)]);
        // A step saves one node at most: most GPUs were reached for less, and need no look at the token.
        const int32_t reached = reached_[to] == epoch_ ? reached_cost_[to] : INT32_MAX;
        if (reached < cost_so_far || cost_so_far - 1 > budget + 1) continue;
        const int32_t total = cost_so_far + cost(c, o);
        if (total > budget + 1 || reached <= total) continue;
        reached_[to] = epoch_;
        reached_cost_[to] = total;
        steps_.push_back({c, o, parent, total});
        if (room_[to] > 0 && total <= budget && follow(budget)) return true;
      }
    }
    return false;
  }

  // Takes the chain that ends in the last step. Its real cost may differ where two steps move the same token.
  bool follow(int32_t budget) {
    const size_t mark = log_.size();
    chain_cost_ = 0;
    for (auto s = static_cast<int32_t>(steps_.size()) - 1; s >= 0; s = steps_[at(s)].parent) {
      const Step& step = steps_[at(s)];
      chain_cost_ += cost(step.choice, step.to);
      take(step.choice, step.to);
    }
    if (chain_cost_ <= budget) return true;
    for (; log_.size() > mark; log_.pop_back()) set_option(log_.back().choice, log_.back().from);
    return false;
  }

  const ReplicaMap& map_;
  std::span<const int32_t> expert_;
  size_t k_;
  std::span<const int32_t> own_;
  std::vector<int64_t> room_;
  ReplicaSearch limits_;
  std::span<int32_t> option_;
  std::vector<std::vector<size_t>> movable_;  // [gpus] choices there that have another option
  std::vector<int32_t> place_;                // [choices] in that list; -1: none
  std::vector<size_t> free_;
  std::vector<int32_t> trial_, nodes_;
  std::vector<Combination> combinations_;
  std::vector<Move> log_;
  std::vector<Step> steps_;
  std::vector<int64_t> reached_;       // [gpus] the last epoch that did
  std::vector<int32_t> reached_cost_;  // [gpus]
  int64_t epoch_ = 0;
  int32_t chain_cost_ = 0;
};

}  // namespace

void search_options(const ReplicaMap& map, std::span<const int32_t> expert, int64_t top_k, std::span<const int32_t> own_node,
                    std::vector<int64_t> room, const ReplicaSearch& search, std::span<int32_t> option) {
  CHECK(expert.size() == option.size() && own_node.size() * static_cast<size_t>(top_k) == expert.size());
  if (search.rounds > 0) Search(map, expert, top_k, own_node, std::move(room), search, option).run();
}

}  // namespace rorqual
