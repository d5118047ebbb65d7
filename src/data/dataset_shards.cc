#include <algorithm>

#include "base/error.h"
#include "data/dataset.h"

namespace rorqual {

ShardSet::ShardSet(std::vector<std::shared_ptr<const ShardReader>> shards) : shards_(std::move(shards)) {
  for (const auto& shard : shards_) {
    first_document_.push_back(documents_);
    documents_ += shard->documents();
    tokens_ += shard->tokens();
    bytes_ += shard->info().text_bytes;
  }
}

std::pair<const ShardReader*, int64_t> ShardSet::locate(int64_t document) const {
  CHECK(document >= 0 && document < documents_, "document {} of {}", document, documents_);
  const auto behind = std::upper_bound(first_document_.begin(), first_document_.end(), document);
  const auto shard = static_cast<size_t>(behind - first_document_.begin()) - 1;
  return {shards_[shard].get(), document - first_document_[shard]};
}

int64_t ShardSet::document_tokens(int64_t document) const {
  const auto [shard, local] = locate(document);
  return shard->document_tokens(local);
}

int64_t ShardSet::document_bytes(int64_t document) const {
  const auto [shard, local] = locate(document);
  return shard->document_bytes(local);
}

void ShardSet::copy_tokens(int64_t document, int64_t begin, std::span<int32_t> out) const {
  const auto [shard, local] = locate(document);
  shard->copy_tokens(local, begin, out);
}

}  // namespace rorqual
