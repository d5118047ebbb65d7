#include <algorithm>

#include "base/error.h"
#include "data/dataset.h"
#include "data/dataset_packing.h"

namespace rorqual {

HeldoutSet::HeldoutSet(ShardSet documents, int64_t seq_len, const TokenIds& ids, int64_t limit)
    : documents_(std::move(documents)), seq_len_(seq_len), ids_(ids) {
  CHECK(seq_len >= 1 && limit >= 0, "seq_len {} limit {}", seq_len, limit);
  check_ids(ids, false);
  check_shards(documents_, ids);
  starts_.reserve(static_cast<size_t>(documents_.documents()) + 1);
  starts_.push_back(0);
  for (int64_t d = 0; d < documents_.documents(); ++d) {
    starts_.push_back(starts_.back() + documents_.document_tokens(d) + kPackingTokens);
  }
  windows_ = std::max<int64_t>(0, (starts_.back() - 1) / seq_len);
  count_ = limit > 0 ? std::min(limit, windows_) : windows_;
}

void HeldoutSet::sequence(int64_t index, std::span<int32_t> out) const {
  CHECK(index >= 0 && index < count_, "window {} of {}", index, count_);
  CHECK(static_cast<int64_t>(out.size()) == seq_len_ + 1, "{} for windows of {} + 1", out.size(), seq_len_);
  const int64_t window = index * windows_ / count_;  // all of them, or spread evenly
  int64_t begin = window * seq_len_;
  auto document = std::upper_bound(starts_.begin(), starts_.end(), begin) - starts_.begin() - 1;
  while (!out.empty()) {
    const int64_t left = starts_[static_cast<size_t>(document) + 1] - begin;
    const auto take = static_cast<size_t>(std::min(left, static_cast<int64_t>(out.size())));
    copy_packed(documents_, document, std::nullopt, ids_, begin - starts_[static_cast<size_t>(document)], out.first(take));
    out = out.subspan(take);
    begin += static_cast<int64_t>(take);
    ++document;
  }
}

double HeldoutSet::predictions_per_byte() const {
  return bytes() > 0 ? static_cast<double>(packed_tokens() - 1) / static_cast<double>(bytes()) : 0;
}

}  // namespace rorqual
