// Packed documents and what shards and model must agree on: shared by TrainingSet and HeldoutSet.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "data/dataset.h"
#include "data/fim.h"

namespace rorqual {

// Tokens of a packed document beside its own, without fill-in-the-middle: BOS and EOS.
inline constexpr int64_t kPackingTokens = 2;

// Writes tokens [begin, begin + out.size()) of the packed document.
void copy_packed(const ShardSet& set, int64_t document, const std::optional<FimSplit>& split, const TokenIds& ids,
                 int64_t begin, std::span<int32_t> out);

// Error (runtime): a shard of another tokenizer or with more ids than the model.
void check_shards(const ShardSet& set, const TokenIds& ids);

// Error (usage): an id that is needed and missing, or beyond the vocabulary. `fim`: those of fill-in-the-middle too.
void check_ids(const TokenIds& ids, bool fim);

}  // namespace rorqual
