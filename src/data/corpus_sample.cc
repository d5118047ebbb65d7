#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "base/error.h"
#include "data/corpus.h"

namespace rorqual {
namespace {

// The documents with the smallest hashes, as many as it takes to hold at least `max_bytes`.
class SmallestHashes {
 public:
  explicit SmallestHashes(int64_t max_bytes) : max_bytes_(max_bytes) {}

  void add(Document&& document) {
    const auto [place, is_new] = kept_.insert(Kept{document.hash, std::move(document.text)});
    if (!is_new) return;  // a copy
    bytes_ += size(*place);
    while (!kept_.empty() && bytes_ - size(*kept_.rbegin()) >= max_bytes_) {
      bytes_ -= size(*kept_.rbegin());
      kept_.erase(std::prev(kept_.end()));
    }
  }
  int64_t bytes() const { return bytes_; }

  void take(int64_t budget, std::vector<std::string>& out) {
    while (budget > 0 && !kept_.empty()) {
      std::string text = std::move(kept_.extract(kept_.begin()).value().text);
      if (static_cast<int64_t>(text.size()) > budget) cut(text, static_cast<size_t>(budget));
      budget -= static_cast<int64_t>(text.size());
      if (text.empty()) break;
      out.push_back(std::move(text));
    }
  }

 private:
  struct Kept {
    uint64_t hash;
    std::string text;
    bool operator<(const Kept& other) const { return hash < other.hash; }
  };
  static int64_t size(const Kept& kept) { return static_cast<int64_t>(kept.text.size()); }

  // Not inside a UTF-8 sequence.
  static void cut(std::string& text, size_t bytes) {
    const size_t longest = bytes;
    while (bytes > 0 && longest - bytes < 3 && (static_cast<unsigned char>(text[bytes]) & 0xC0) == 0x80) --bytes;
    text.resize(bytes);
  }

  int64_t max_bytes_;
  int64_t bytes_ = 0;
  std::set<Kept> kept_;
};

// Shares max_bytes by weight; what a source cannot fill goes to the others.
std::vector<int64_t> share_bytes(const std::vector<CorpusSource>& sources, const std::vector<int64_t>& have,
                                 int64_t max_bytes) {
  std::vector<size_t> order(sources.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return static_cast<double>(have[a]) / sources[a].weight < static_cast<double>(have[b]) / sources[b].weight;
  });
  double weight = 0;
  for (const CorpusSource& source : sources) weight += source.weight;
  std::vector<int64_t> shares(sources.size());
  int64_t left = max_bytes;
  for (size_t i = 0; i < order.size(); ++i) {
    const double w = sources[order[i]].weight;
    const bool last = i + 1 == order.size();
    const int64_t fair = last ? left : static_cast<int64_t>(static_cast<double>(left) * (w / weight));
    shares[order[i]] = std::min(have[order[i]], fair);
    left -= shares[order[i]];
    weight -= w;
  }
  return shares;
}

}  // namespace

std::vector<std::string> sample_documents(const std::vector<CorpusSource>& sources, int64_t max_bytes, double heldout_fraction,
                                          const Stream& stream) {
  CHECK(max_bytes > 0, "max_bytes {}", max_bytes);
  std::vector<SmallestHashes> smallest;
  std::vector<int64_t> have;
  std::vector<Document> batch;
  for (const CorpusSource& source : sources) {
    SmallestHashes& kept = smallest.emplace_back(max_bytes);
    CorpusReader reader(source, stream);
    while (reader.next(batch)) {
      for (Document& document : batch) {
        if (!is_heldout(document.hash, heldout_fraction)) kept.add(std::move(document));
      }
    }
    have.push_back(kept.bytes());
  }
  const std::vector<int64_t> shares = share_bytes(sources, have, max_bytes);
  std::vector<std::string> sample;
  for (size_t i = 0; i < smallest.size(); ++i) smallest[i].take(shares[i], sample);
  if (sample.empty()) {
    fail("the data holds no text to train a tokenizer on (empty, binary and held-out documents are left out); give more data");
  }
  return sample;
}

}  // namespace rorqual
