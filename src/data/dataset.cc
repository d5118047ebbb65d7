#include "data/dataset.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/rng.h"
#include "data/dataset_packing.h"
#include "data/fim.h"

namespace rorqual {
namespace {

// Layers of RandomPurpose::kShuffle: 2·source for documents, 2·source + 1 for sequences, the last for mixing.
constexpr uint32_t kMixingLayer = 0xFFFF;
constexpr size_t kMaxSources = 1024;
constexpr size_t kKeptEpochs = 2;  // the current and the next one
constexpr size_t kKeptCycles = 4;

RandomKey shuffle_key(uint64_t seed, int64_t step, uint32_t layer) {
  return {.seed = seed, .purpose = RandomPurpose::kShuffle, .step = static_cast<uint64_t>(step), .layer = layer};
}

// Fisher-Yates; number i is drawn at position i.
std::vector<uint32_t> permutation(const RandomKey& key, int64_t n) {
  CHECK(n <= int64_t{UINT32_MAX}, "{} things to shuffle", n);
  std::vector<uint32_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0u);
  for (size_t i = order.size(); i-- > 1;) std::swap(order[i], order[random_below(key, i, i + 1)]);
  return order;
}

// One source in one epoch.
struct EpochPlan {
  int64_t epoch = 0;
  std::vector<uint32_t> documents;  // in the order of packing
  std::vector<int64_t> starts;      // of each in the packed stream, and its end
  std::vector<uint32_t> windows;    // in the order of consumption
};

struct Cycle {
  int64_t number = 0;
  std::vector<uint32_t> source, rank;  // of each of kCycle sequences: its source, and how many of it came before in the cycle
};

// Shares of 1024 by largest remainder; equal remainders go to the earlier source.
std::vector<int64_t> make_quotas(const std::vector<TrainingSource>& sources) {
  double sum = 0;
  for (const TrainingSource& source : sources) sum += source.weight;
  std::vector<int64_t> quotas;
  std::vector<double> remainders;
  int64_t left = TrainingSet::kCycle;
  for (const TrainingSource& source : sources) {
    const double exact = source.weight / sum * static_cast<double>(TrainingSet::kCycle);
    quotas.push_back(static_cast<int64_t>(exact));
    remainders.push_back(exact - std::floor(exact));
    left -= quotas.back();
  }
  std::vector<size_t> order(sources.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return remainders[a] > remainders[b]; });
  for (size_t i = 0; i < order.size() && left > 0; ++i, --left) ++quotas[order[i]];
  for (size_t i = 0; i < sources.size(); ++i) {
    if (quotas[i] > 0) continue;
    fail_usage(
        "the weight {} of the data {} is too small: it gives less than one sequence in {}; raise it or leave the data out",
        sources[i].weight, sources[i].name, TrainingSet::kCycle);
  }
  return quotas;
}

}  // namespace

struct TrainingSet::State {
  std::vector<TrainingSource> sources;
  TrainingOptions options;
  std::vector<int64_t> quotas;

  // Caches of pure functions.
  mutable std::mutex mutex;
  mutable std::vector<std::vector<int64_t>> first_sequence;                  // [source][epoch]: sequences before it
  mutable std::vector<std::vector<std::shared_ptr<const EpochPlan>>> plans;  // [source], last used first
  mutable std::vector<std::shared_ptr<const Cycle>> cycles;                  // last used first

  int64_t packed_tokens(int64_t source, int64_t epoch) const;
  int64_t count_sequences(int64_t source, int64_t epoch) const;
  std::pair<int64_t, int64_t> find_epoch(int64_t source, int64_t sequence) const;  // (epoch, sequence in it)
  std::pair<int64_t, int64_t> mix(int64_t index) const;                            // (source, sequence of the source)
  std::shared_ptr<const EpochPlan> plan(int64_t source, int64_t epoch) const;
  std::shared_ptr<const EpochPlan> make_plan(int64_t source, int64_t epoch) const;
  std::shared_ptr<const Cycle> make_cycle(int64_t number) const;
  const ShardSet& set(int64_t source) const { return sources[static_cast<size_t>(source)].documents; }
};

int64_t TrainingSet::State::packed_tokens(int64_t source, int64_t epoch) const {
  const int64_t documents = set(source).documents();
  int64_t tokens = set(source).tokens() + kPackingTokens * documents;
  if (options.fim_rate > 0) {
    for (int64_t d = 0; d < documents; ++d) {
      if (fim_applies(options.seed, epoch, source, d, options.fim_rate)) tokens += kFimExtraTokens;
    }
  }
  return tokens;
}

int64_t TrainingSet::State::count_sequences(int64_t source, int64_t epoch) const {
  return (packed_tokens(source, epoch) - 1) / options.seq_len;
}

std::pair<int64_t, int64_t> TrainingSet::State::find_epoch(int64_t source, int64_t sequence) const {
  if (options.fim_rate <= 0) {
    const int64_t count = count_sequences(source, 0);
    return {sequence / count, sequence % count};
  }
  // Fill-in-the-middle adds tokens, so that epochs differ a little in length.
  const std::lock_guard lock(mutex);
  std::vector<int64_t>& first = first_sequence[static_cast<size_t>(source)];
  while (first.back() <= sequence)
    first.push_back(first.back() + count_sequences(source, static_cast<int64_t>(first.size()) - 1));
  const auto epoch = std::upper_bound(first.begin(), first.end(), sequence) - first.begin() - 1;
  return {epoch, sequence - first[static_cast<size_t>(epoch)]};
}

std::shared_ptr<const Cycle> TrainingSet::State::make_cycle(int64_t number) const {
  auto cycle = std::make_shared<Cycle>();
  cycle->number = number;
  const std::vector<uint32_t> order = permutation(shuffle_key(options.seed, number, kMixingLayer), kCycle);
  std::vector<uint32_t> source_of_slot, used(sources.size());
  for (size_t s = 0; s < quotas.size(); ++s)
    source_of_slot.insert(source_of_slot.end(), static_cast<size_t>(quotas[s]), static_cast<uint32_t>(s));
  for (const uint32_t slot : order) {
    const uint32_t source = source_of_slot[slot];
    cycle->source.push_back(source);
    cycle->rank.push_back(used[source]++);
  }
  return cycle;
}

std::pair<int64_t, int64_t> TrainingSet::State::mix(int64_t index) const {
  if (sources.size() == 1) return {0, index};
  const int64_t number = index / kCycle;
  std::shared_ptr<const Cycle> cycle;
  {
    const std::lock_guard lock(mutex);
    auto found = std::find_if(cycles.begin(), cycles.end(), [&](const auto& c) { return c->number == number; });
    if (found == cycles.end()) {
      if (cycles.size() == kKeptCycles) cycles.pop_back();
      cycles.insert(cycles.begin(), make_cycle(number));
      found = cycles.begin();
    }
    std::rotate(cycles.begin(), found, found + 1);
    cycle = cycles.front();
  }
  const auto at = static_cast<size_t>(index % kCycle);
  const int64_t source = cycle->source[at];
  return {source, number * quotas[static_cast<size_t>(source)] + cycle->rank[at]};
}

std::shared_ptr<const EpochPlan> TrainingSet::State::make_plan(int64_t source, int64_t epoch) const {
  auto plan = std::make_shared<EpochPlan>();
  plan->epoch = epoch;
  const auto layer = static_cast<uint32_t>(2 * source);
  plan->documents = permutation(shuffle_key(options.seed, epoch, layer), set(source).documents());
  plan->starts.reserve(plan->documents.size() + 1);
  plan->starts.push_back(0);
  for (const uint32_t document : plan->documents) {
    const bool fim = fim_applies(options.seed, epoch, source, document, options.fim_rate);
    plan->starts.push_back(plan->starts.back() + set(source).document_tokens(document) + kPackingTokens +
                           (fim ? kFimExtraTokens : 0));
  }
  plan->windows = permutation(shuffle_key(options.seed, epoch, layer + 1), (plan->starts.back() - 1) / options.seq_len);
  return plan;
}

std::shared_ptr<const EpochPlan> TrainingSet::State::plan(int64_t source, int64_t epoch) const {
  const std::lock_guard lock(mutex);
  auto& kept = plans[static_cast<size_t>(source)];
  auto found = std::find_if(kept.begin(), kept.end(), [&](const auto& p) { return p->epoch == epoch; });
  if (found == kept.end()) {
    if (kept.size() == kKeptEpochs) kept.pop_back();
    kept.insert(kept.begin(), make_plan(source, epoch));
    found = kept.begin();
  }
  std::rotate(kept.begin(), found, found + 1);
  return kept.front();
}

TrainingSet::TrainingSet(std::vector<TrainingSource> sources, const TrainingOptions& options) : state_(new State) {
  CHECK(!sources.empty() && sources.size() <= kMaxSources, "{} sources", sources.size());
  CHECK(options.seq_len >= 1, "seq_len {}", options.seq_len);
  CHECK(options.fim_rate >= 0 && options.fim_rate <= 1, "fim_rate {}", options.fim_rate);
  check_ids(options.ids, options.fim_rate > 0);
  for (const TrainingSource& source : sources) {
    CHECK(std::isfinite(source.weight) && source.weight > 0, "weight {} of {}", source.weight, source.name);
    check_shards(source.documents, options.ids);
    const int64_t tokens = source.documents.tokens() + kPackingTokens * source.documents.documents();
    if (tokens < options.seq_len + 1) {
      fail(
          "the recipe does not fit the data: {} has {} training tokens in {} documents, less than one sequence of {} + 1; "
          "lower the "
          "sequence length or give more data",
          source.name, tokens, source.documents.documents(), options.seq_len);
    }
  }
  state_->quotas = make_quotas(sources);
  state_->first_sequence.assign(sources.size(), {0});
  state_->plans.resize(sources.size());
  state_->sources = std::move(sources);
  state_->options = options;
}

TrainingSet::~TrainingSet() = default;

TrainingSet::Position TrainingSet::position(int64_t index) const {
  CHECK(index >= 0, "sequence {}", index);
  Position at;
  const auto [source, sequence] = state_->mix(index);
  at.source = source;
  std::tie(at.epoch, at.sequence_in_epoch) = state_->find_epoch(source, sequence);
  at.window = state_->plan(source, at.epoch)->windows[static_cast<size_t>(at.sequence_in_epoch)];
  return at;
}

void TrainingSet::sequence(int64_t index, std::span<int32_t> out) const {
  const TrainingOptions& options = state_->options;
  CHECK(static_cast<int64_t>(out.size()) == options.seq_len + 1, "{} for sequences of {} + 1", out.size(), options.seq_len);
  const Position at = position(index);
  const auto plan = state_->plan(at.source, at.epoch);
  int64_t begin = at.window * options.seq_len;
  auto i = static_cast<size_t>(std::upper_bound(plan->starts.begin(), plan->starts.end(), begin) - plan->starts.begin()) - 1;
  while (!out.empty()) {
    const int64_t document = plan->documents[i];
    const ShardSet& set = state_->set(at.source);
    std::optional<FimSplit> split;
    if (fim_applies(options.seed, at.epoch, at.source, document, options.fim_rate)) {
      split = fim_split(options.seed, at.epoch, at.source, document, set.document_tokens(document));
    }
    const auto take = static_cast<size_t>(std::min(plan->starts[i + 1] - begin, static_cast<int64_t>(out.size())));
    copy_packed(set, document, split, options.ids, begin - plan->starts[i], out.first(take));
    out = out.subspan(take);
    begin += static_cast<int64_t>(take);
    ++i;
  }
}

int64_t TrainingSet::sequences_in_epoch(int64_t source, int64_t epoch) const {
  return state_->count_sequences(source, epoch);
}

int64_t TrainingSet::seq_len() const {
  return state_->options.seq_len;
}
int64_t TrainingSet::sources() const {
  return static_cast<int64_t>(state_->sources.size());
}
const TrainingSource& TrainingSet::source(int64_t source) const {
  return state_->sources[static_cast<size_t>(source)];
}
const std::vector<int64_t>& TrainingSet::quotas() const {
  return state_->quotas;
}

int64_t TrainingSet::tokens() const {
  int64_t sum = 0;
  for (const TrainingSource& source : state_->sources) sum += source.documents.tokens();
  return sum;
}
int64_t TrainingSet::documents() const {
  int64_t sum = 0;
  for (const TrainingSource& source : state_->sources) sum += source.documents.documents();
  return sum;
}
int64_t TrainingSet::bytes() const {
  int64_t sum = 0;
  for (const TrainingSource& source : state_->sources) sum += source.documents.bytes();
  return sum;
}

}  // namespace rorqual
