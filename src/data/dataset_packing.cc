#include "data/dataset_packing.h"

#include <algorithm>
#include <array>

#include "base/error.h"

namespace rorqual {
namespace {

// A piece of a packed document: one special token, or a range of the document.
struct Piece {
  int32_t token = -1;
  int64_t begin = 0, end = 0;
  int64_t size() const { return token >= 0 ? 1 : end - begin; }
};

}  // namespace

void copy_packed(const ShardSet& set, int64_t document, const std::optional<FimSplit>& split, const TokenIds& ids,
                 int64_t begin, std::span<int32_t> out) {
  const int64_t n = set.document_tokens(document);
  std::array<Piece, 8> pieces;
  size_t count = 0;
  pieces[count++] = {.token = ids.bos};
  if (split) {
    pieces[count++] = {.token = ids.fim_begin};
    pieces[count++] = {.begin = 0, .end = split->first};
    pieces[count++] = {.token = ids.fim_hole};
    pieces[count++] = {.begin = split->second, .end = n};
    pieces[count++] = {.token = ids.fim_end};
    pieces[count++] = {.begin = split->first, .end = split->second};
  } else {
    pieces[count++] = {.begin = 0, .end = n};
  }
  pieces[count++] = {.token = ids.eos};

  for (size_t i = 0; i < count && !out.empty(); ++i) {
    const Piece& piece = pieces[i];
    if (begin >= piece.size()) {
      begin -= piece.size();
      continue;
    }
    const auto take = static_cast<size_t>(std::min(piece.size() - begin, static_cast<int64_t>(out.size())));
    if (piece.token >= 0) {
      out[0] = piece.token;
    } else {
      set.copy_tokens(document, piece.begin + begin, out.first(take));
    }
    out = out.subspan(take);
    begin = 0;
  }
  CHECK(out.empty(), "{} tokens beyond document {}", out.size(), document);
}

void check_shards(const ShardSet& set, const TokenIds& ids) {
  for (const auto& shard : set.shards()) {
    const ShardInfo& info = shard->info();
    if (info.tokenizer_fingerprint != ids.tokenizer_fingerprint) {
      fail(
          "the token shard {} was made with another tokenizer (fingerprint {:016x}, the model's is {:016x}); tokenise the data "
          "again "
          "with the model's tokenizer: give another --out, or delete the folder of the shard",
          info.path, info.tokenizer_fingerprint, ids.tokenizer_fingerprint);
    }
    if (info.vocab_size > ids.vocab_size) {
      fail(
          "the token shard {} has a vocabulary of {}, the model only {}; raise the model's vocab_size or use a smaller "
          "tokenizer",
          info.path, info.vocab_size, ids.vocab_size);
    }
  }
}

void check_ids(const TokenIds& ids, bool fim) {
  const auto check = [&](int32_t id, const char* name, const char* remedy) {
    if (id < 0) fail_usage("the tokenizer has no {} token; {}", name, remedy);
    if (id >= ids.vocab_size) {
      fail_usage("the tokenizer's {} token has id {}, the model's vocabulary has {}; raise the model's vocab_size", name, id,
                 ids.vocab_size);
    }
  };
  check(ids.bos, "begin-of-sentence", "use one that has");
  check(ids.eos, "end-of-sentence", "use one that has");
  if (!fim) return;
  check(ids.fim_begin, "fill-in-the-middle begin", "set the fill-in-the-middle rate to 0 or use one that has");
  check(ids.fim_hole, "fill-in-the-middle hole", "set the fill-in-the-middle rate to 0 or use one that has");
  check(ids.fim_end, "fill-in-the-middle end", "set the fill-in-the-middle rate to 0 or use one that has");
}

}  // namespace rorqual
