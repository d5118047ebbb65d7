// Schedules are changed at random. What is left is run on numbers by an executor that knows nothing of the checker's rules:
// ranks with memories, a transport without tags, and gradients that come out as those of one rank or do not. The checker must
// refuse what goes wrong there and accept the rest.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include "base/file.h"
#include "plan/pipeline.h"
#include "plan/pipeline_check.h"
#include "plan/pipeline_test_util.h"

namespace rorqual {
namespace {

using Kind = PipelineActionKind;
using Number = uint64_t;

template <class... Parts>
Number mix(Parts... parts) {
  const Number words[] = {static_cast<Number>(parts)...};
  return hash_bytes(words, sizeof(words));
}

// One model of which every schedule runs the stages: numbers that depend on everything they are made from.
Number input(int flow, int micro_batch) {
  return mix(1, flow, micro_batch);
}
Number stage_output(int stage, Number x) {
  return mix(2, stage, x);
}
Number loss_gradient(Number output) {
  return mix(3, output);
}
Number input_gradient(int stage, Number x, Number gradient) {
  return mix(4, stage, x, gradient);
}
Number weight_gradient(int stage, Number x, Number gradient) {
  return mix(5, stage, x, gradient);
}
Number add(Number sum, Number term) {  // order matters, as with floating-point numbers
  return mix(6, sum, term);
}

// Which stage a rank's module is, written down anew from the words of the specification.
int stage_of(const PipelineShape& shape, int rank, int direction) {
  if (direction == 0) return rank;
  return shape.kind == PipelineKind::kDualPipe ? shape.ranks - 1 - rank : 2 * shape.ranks - 1 - rank;
}

struct Wrong {};  // thrown where a rank cannot do what its list says

using Key = std::pair<int, int>;  // direction, micro-batch

Number take(std::map<Key, Number>& memory, Key key) {
  const auto it = memory.find(key);
  if (it == memory.end()) throw Wrong{};
  const Number value = it->second;
  memory.erase(it);
  return value;
}

void put(std::map<Key, Number>& memory, Key key, Number value) {
  if (!memory.emplace(key, value).second) throw Wrong{};
}

struct Rank {
  std::map<Key, Number> inputs, output_gradients;  // ready to be used
  std::map<Key, Number> outputs, input_gradients;  // to be sent, or being sent
  std::map<Key, Number> saved, deferred;           // between forward and backward, between backward and weight gradient
  std::map<int, Number> sums;                      // by direction
  struct Request {
    bool send, activation;
    Key key;
    int peer;
    size_t number = 0;  // on its way between the two ranks
  };
  std::vector<Request> listed, open;
  std::set<std::pair<bool, Key>> sending, receiving;  // with the request's activation
  size_t next = 0;
};

// The numbers that went from one rank to another, and how many receives were posted for them.
struct Wire {
  std::vector<Number> sent;
  size_t receives = 0;
};

class Executor {
 public:
  Executor(const PipelineSchedule& schedule, int buffers)
      : schedule_(schedule),
        shape_(schedule.shape),
        buffers_(static_cast<size_t>(buffers)),
        stages_(shape_.kind == PipelineKind::kDualPipeV ? 2 * shape_.ranks : shape_.ranks),
        directions_(shape_.kind == PipelineKind::kDualPipe || shape_.kind == PipelineKind::kDualPipeV ? 2 : 1),
        each_(shape_.kind == PipelineKind::kDualPipe ? shape_.micro_batches / 2 : shape_.micro_batches),
        ranks_(schedule.ranks.size()) {}

  bool works() {
    try {
      for (bool progress = true; progress;) {
        progress = false;
        for (size_t r = 0; r < ranks_.size(); ++r)
          while (step(r)) progress = true;
      }
      return right();
    } catch (const Wrong&) {
      return false;
    }
  }

 private:
  // False: the rank is through or has to wait.
  bool step(size_t r) {
    Rank& rank = ranks_[r];
    if (rank.next == schedule_.ranks[r].size()) return false;
    const PipelineAction& a = schedule_.ranks[r][rank.next];
    if (a.kind == Kind::kPost || a.kind == Kind::kCommit) {
      post(r);
      if (a.kind == Kind::kCommit && !finish_open(r)) return posted_;
    } else if (a.is_message()) {
      check_stage(r, a.chunk);
      list(rank, a);
    } else {
      compute(r, a);
    }
    ++rank.next;
    return true;
  }

  static void list(Rank& rank, const PipelineAction& a) {
    const bool activation = a.kind == Kind::kSendActivation || a.kind == Kind::kReceiveActivation;
    const Key key{a.chunk.direction, a.chunk.micro_batch};
    if (a.is_send() && !(activation ? rank.outputs : rank.input_gradients).contains(key)) throw Wrong{};
    if (!(a.is_send() ? rank.sending : rank.receiving).emplace(activation, key).second) throw Wrong{};
    rank.listed.push_back({a.is_send(), activation, key, a.peer});
  }

  void post(size_t r) {
    Rank& rank = ranks_[r];
    posted_ = !rank.listed.empty();
    for (Rank::Request& q : rank.listed) {
      if (q.peer < 0 || q.peer >= shape_.ranks || q.peer == static_cast<int>(r)) throw Wrong{};
      Wire& wire = q.send ? wires_[{static_cast<int>(r), q.peer}] : wires_[{q.peer, static_cast<int>(r)}];
      q.number = q.send ? wire.sent.size() : wire.receives;
      if (q.send)
        wire.sent.push_back((q.activation ? rank.outputs : rank.input_gradients).at(q.key));
      else
        ++wire.receives;
      rank.open.push_back(q);
    }
    rank.listed.clear();
  }

  bool finish_open(size_t r) {
    Rank& rank = ranks_[r];
    for (const Rank::Request& q : rank.open) {
      const Wire& wire = q.send ? wires_[{static_cast<int>(r), q.peer}] : wires_[{q.peer, static_cast<int>(r)}];
      if (q.send ? q.number >= wire.receives + buffers_ : q.number >= wire.sent.size()) return false;
    }
    for (const Rank::Request& q : rank.open) {
      (q.send ? rank.sending : rank.receiving).erase({q.activation, q.key});
      if (q.send)
        take(q.activation ? rank.outputs : rank.input_gradients, q.key);
      else
        put(q.activation ? rank.inputs : rank.output_gradients, q.key, wires_[{q.peer, static_cast<int>(r)}].sent[q.number]);
    }
    rank.open.clear();
    return true;
  }

  struct Backward {
    Number saved, gradient;
  };

  void compute(size_t r, const PipelineAction& a) {
    Rank& rank = ranks_[r];
    const bool forward = a.kind == Kind::kForward || a.kind == Kind::kForwardBackward;
    const bool backward = a.kind == Kind::kBackward || a.kind == Kind::kInputGradient || a.kind == Kind::kForwardBackward;
    const PipelineChunk& b = a.kind == Kind::kForwardBackward ? a.backward : a.chunk;
    const Key key{b.direction, b.micro_batch};
    std::optional<Backward> operands;  // taken before the forward runs beside the backward
    if (backward) {
      check_stage(r, b);
      operands = Backward{take(rank.saved, key), take(rank.output_gradients, key)};
    }
    if (forward) run_forward(r, a.chunk);
    if (backward) {
      const int stage = b.stage;
      const Number below = input_gradient(stage, operands->saved, operands->gradient);
      const bool turn = shape_.kind == PipelineKind::kDualPipeV && stage == shape_.ranks;
      if (turn) put(rank.output_gradients, {0, b.micro_batch}, below);
      if (!turn && stage > 0) put(rank.input_gradients, key, below);
      const Number weights = weight_gradient(stage, operands->saved, operands->gradient);
      if (a.kind == Kind::kInputGradient)
        put(rank.deferred, key, weights);
      else
        rank.sums[b.direction] = add(rank.sums[b.direction], weights);
    }
    if (a.kind == Kind::kWeightGradient) {
      check_stage(r, b);
      rank.sums[b.direction] = add(rank.sums[b.direction], take(rank.deferred, key));
    }
  }

  void check_stage(size_t r, const PipelineChunk& c) const {
    if (c.direction < 0 || c.direction >= directions_ || c.micro_batch < 0 || c.micro_batch >= each_) throw Wrong{};
    if (stage_of(shape_, static_cast<int>(r), c.direction) != c.stage) throw Wrong{};
  }

  void run_forward(size_t r, const PipelineChunk& c) {
    check_stage(r, c);
    Rank& rank = ranks_[r];
    const Key key{c.direction, c.micro_batch};
    const int flow = shape_.kind == PipelineKind::kDualPipe ? c.direction : 0;
    const Number x = c.stage == 0 ? input(flow, c.micro_batch) : take(rank.inputs, key);
    put(rank.saved, key, x);
    const Number y = stage_output(c.stage, x);
    if (c.stage == stages_ - 1)
      put(rank.output_gradients, key, loss_gradient(y));
    else if (shape_.kind == PipelineKind::kDualPipeV && c.stage == shape_.ranks - 1)
      put(rank.inputs, {1, c.micro_batch}, y);
    else
      put(rank.outputs, key, y);
  }

  // Everybody is through, nothing is left over, and the sums are those of a single rank.
  bool right() const {
    for (size_t r = 0; r < ranks_.size(); ++r) {
      const Rank& k = ranks_[r];
      const bool empty = k.inputs.empty() && k.output_gradients.empty() && k.outputs.empty() && k.input_gradients.empty() &&
                         k.saved.empty() && k.deferred.empty() && k.listed.empty() && k.open.empty();
      if (!empty || k.next != schedule_.ranks[r].size()) return false;
    }
    const int flows = shape_.kind == PipelineKind::kDualPipe ? 2 : 1;
    std::map<std::pair<int, int>, Number> sums;  // by flow and stage
    for (int flow = 0; flow < flows; ++flow) {
      for (int m = 0; m < each_; ++m) {
        std::vector<Number> x = {input(flow, m)};
        for (int s = 0; s < stages_; ++s) x.push_back(stage_output(s, x.back()));
        Number gradient = loss_gradient(x.back());
        for (int s = stages_ - 1; s >= 0; --s) {
          Number& sum = sums[{flow, s}];
          sum = add(sum, weight_gradient(s, x[static_cast<size_t>(s)], gradient));
          gradient = input_gradient(s, x[static_cast<size_t>(s)], gradient);
        }
      }
    }
    for (size_t r = 0; r < ranks_.size(); ++r)
      for (int d = 0; d < directions_; ++d) {
        const auto sum = ranks_[r].sums.find(d);
        const Number expected = sums[{flows == 2 ? d : 0, stage_of(shape_, static_cast<int>(r), d)}];
        if (sum == ranks_[r].sums.end() || sum->second != expected) return false;
      }
    return true;
  }

  const PipelineSchedule& schedule_;
  const PipelineShape& shape_;
  size_t buffers_;
  int stages_, directions_, each_;
  std::vector<Rank> ranks_;
  std::map<std::pair<int, int>, Wire> wires_;
  bool posted_ = false;
};

// One random change; its name.
class Mutator {
 public:
  Mutator(PipelineSchedule& schedule, TestRandom& random)
      : schedule_(schedule), random_(random), list_(schedule.ranks[pick(schedule.ranks.size())]) {}

  std::string mutate() {
    if (list_.empty()) return "nothing";
    const size_t at = pick(list_.size()), other = pick(list_.size());
    const auto begin = list_.begin();
    switch (random_.below(12)) {
      case 0:
        return std::swap(list_[at], list_[other]), "swap";
      case 1:
        return std::swap(list_[at], list_[std::min(at + 1, list_.size() - 1)]), "swap neighbours";
      case 2:
        return list_.erase(begin + static_cast<long>(at)), "drop";
      case 3:
        return duplicate(at, other), "duplicate";
      case 4:
        return move(at, other), "move";
      case 5:
        return move(at, std::min(list_.size() - 1, at + pick(4))), "delay";
      case 6:
        return change(list_[at]), "change";
      case 7:
        return change_kind(list_[at]), "change the kind";
      case 8:
        return commit(at), "commit";
      case 9:
        return message_pair(), "exchange two messages at both ends";
      case 10:
        return split(at), "take a pair apart";
      default:
        return give_away(at), "give to another rank";
    }
  }

 private:
  size_t pick(size_t n) { return static_cast<size_t>(random_.below(static_cast<int>(n))); }

  void duplicate(size_t at, size_t to) {
    const PipelineAction a = list_[at];
    list_.insert(list_.begin() + static_cast<long>(to), a);
  }

  void move(size_t from, size_t to) {
    const PipelineAction a = list_[from];
    list_.erase(list_.begin() + static_cast<long>(from));
    list_.insert(list_.begin() + static_cast<long>(std::min(to, list_.size())), a);
  }

  // Somewhere; or, on all ranks or one, behind every send: neighbours that both send before they receive wait for ever.
  void commit(size_t at) {
    const int where = random_.below(3);
    if (where == 0) list_.insert(list_.begin() + static_cast<long>(at), PipelineAction{});
    for (auto& rank : schedule_.ranks) {
      if (where == 0 || (where == 1 && &rank != &list_)) continue;
      std::vector<PipelineAction> apart;
      for (const PipelineAction& a : rank) {
        apart.push_back(a);
        if (a.is_send()) apart.push_back(PipelineAction{});
      }
      rank = apart;
    }
  }

  void change(PipelineAction& a) {
    const int by = random_.below(2) == 0 ? 1 : -1;
    switch (random_.below(4)) {
      case 0:
        a.chunk.micro_batch += by;
        break;
      case 1:
        a.chunk.direction = static_cast<int8_t>(1 - a.chunk.direction);
        break;
      case 2:
        a.peer = random_.below(schedule_.shape.ranks + 2) - 1;
        break;
      default:
        a.chunk.stage = static_cast<int16_t>(a.chunk.stage + by);
        break;
    }
  }

  void change_kind(PipelineAction& a) {
    if (a.kind == Kind::kPost || a.kind == Kind::kCommit)
      a.kind = a.kind == Kind::kPost ? Kind::kCommit : Kind::kPost;
    else if (a.kind == Kind::kBackward)
      a.kind = Kind::kInputGradient;
    else if (a.kind == Kind::kInputGradient)
      a.kind = Kind::kBackward;
    else if (a.is_message())
      a.kind = static_cast<Kind>(static_cast<int>(Kind::kReceiveActivation) + random_.below(4));
  }

  // The pair's halves one after the other, or a backward with its weight gradient apart: right, unless something else is wrong.
  void split(size_t at) {
    const PipelineAction a = list_[at];
    if (a.kind == Kind::kForwardBackward) {
      list_[at].kind = Kind::kForward;
      PipelineAction b = a;
      b.kind = Kind::kBackward;
      b.chunk = a.backward;
      list_.insert(list_.begin() + static_cast<long>(at) + random_.below(2), b);
    } else if (a.kind == Kind::kBackward) {
      list_[at].kind = Kind::kInputGradient;
      PipelineAction b = a;
      b.kind = Kind::kWeightGradient;
      list_.insert(list_.begin() + static_cast<long>(std::min(at + 1 + pick(6), list_.size())), b);
    }
  }

  // Two neighbouring messages of the same link, exchanged where they are sent and where they are received.
  void message_pair() {
    const size_t at = pick(list_.size());
    const size_t a = next_message(at, -2), b = next_message(a + 1, a < list_.size() ? list_[a].peer : -2);
    if (b >= list_.size()) return;
    const int self = static_cast<int>(&list_ - schedule_.ranks.data());
    auto& others = schedule_.ranks[static_cast<size_t>(list_[a].peer)];
    const auto meets = [&](const PipelineAction& mine) {
      for (size_t i = 0; i < others.size(); ++i)
        if (others[i].is_message() && others[i].peer == self && others[i].is_send() != mine.is_send() &&
            others[i].chunk.micro_batch == mine.chunk.micro_batch && others[i].chunk.direction == mine.chunk.direction)
          return i;
      return others.size();
    };
    const size_t c = meets(list_[a]), d = meets(list_[b]);
    if (c >= others.size() || d >= others.size()) return;
    std::swap(list_[a], list_[b]);
    std::swap(others[c], others[d]);
  }

  size_t next_message(size_t from, int peer) const {
    while (from < list_.size() && !(list_[from].is_message() && (peer == -2 || list_[from].peer == peer))) ++from;
    return from;
  }

  void give_away(size_t at) {
    auto& target = schedule_.ranks[pick(schedule_.ranks.size())];
    const PipelineAction a = list_[at];
    list_.erase(list_.begin() + static_cast<long>(at));
    target.insert(target.begin() + static_cast<long>(pick(target.size() + 1)), a);
  }

  PipelineSchedule& schedule_;
  TestRandom& random_;
  std::vector<PipelineAction>& list_;
};

PipelineShape random_shape(TestRandom& random) {
  const auto kind = static_cast<PipelineKind>(random.below(4));
  const bool dual = kind == PipelineKind::kDualPipe;
  const int ranks = dual ? 2 + 2 * random.below(2) : 1 + random.below(4);
  const int least = dual || kind == PipelineKind::kDualPipeV ? 2 * ranks : 1;
  return {.kind = kind, .ranks = ranks, .micro_batches = least + (dual ? 2 * random.below(2) : random.below(4))};
}

TEST(PipelineFuzz, TheExecutorRunsWhatTheGeneratorsMake) {
  TestRandom random(1);
  for (int trial = 0; trial < 60; ++trial) {
    const PipelineSchedule schedule = make_pipeline_schedule(random_shape(random));
    for (const int buffers : {0, 1}) EXPECT_TRUE(Executor(schedule, buffers).works());
  }
}

TEST(PipelineFuzz, TheCheckerRefusesExactlyWhatGoesWrong) {
  constexpr int kTrials = 5000;
  int refused = 0, accepted_but_changed = 0, deadlocks = 0, mismatches = 0;
  for (int trial = 0; trial < kTrials; ++trial) {
    TestRandom random(1000 + static_cast<uint64_t>(trial));
    PipelineSchedule schedule = make_pipeline_schedule(random_shape(random));
    const auto before = schedule.ranks;
    const int buffers = std::max(0, random.below(4) - 1);
    std::string what;
    for (int n = 1 + random.below(2); n > 0; --n) what += Mutator(schedule, random).mutate() + "; ";
    const bool works = Executor(schedule, buffers).works();
    const PipelineCheck check = check_pipeline(schedule, buffers);
    ASSERT_EQ(!check.fault, works) << "trial " << trial << ": " << what << (check.fault ? check.fault->why : "accepted") << " "
                                   << pipeline_kind_name(schedule.shape.kind) << " " << schedule.shape.ranks << " "
                                   << schedule.shape.micro_batches;
    refused += !works;
    accepted_but_changed += works && schedule.ranks != before;
    if (!check.fault) continue;
    ASSERT_GE(check.fault->rank, 0);
    ASSERT_LT(check.fault->rank, schedule.shape.ranks);
    ASSERT_LE(check.fault->action, static_cast<int64_t>(schedule.ranks[static_cast<size_t>(check.fault->rank)].size()));
    deadlocks += check.fault->why.find("waits for ever") != std::string::npos;
    mismatches += check.fault->why.find("is another one") != std::string::npos;
  }
  // Every kind of answer is tried often enough.
  EXPECT_GT(refused, kTrials / 3);
  EXPECT_GT(accepted_but_changed, kTrials / 10);
  EXPECT_GT(deadlocks, 20);
  EXPECT_GT(mismatches, 30);
}

}  // namespace
}  // namespace rorqual
