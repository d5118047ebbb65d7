#include "data/tokenizer.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/error.h"
#include "base/file.h"
#include "data/pretokenizer.h"
#include "data/tokenizer_cache.h"
#include "data/tokenizer_impl.h"
#include "data/unicode.h"

namespace rorqual {

namespace {

// Version of the meaning of a fingerprint: the pre-tokenizer and the Unicode tables.
constexpr std::string_view kPreTokenizerTag = "deepseek-v3, Unicode 16.0.0";

uint64_t hash_parts(const TokenizerParts& parts, std::optional<int32_t> bos, std::optional<int32_t> eos) {
  std::string text(kPreTokenizerTag);
  const auto number = [&](int64_t value) { text.append(reinterpret_cast<const char*>(&value), sizeof(value)); };
  number(static_cast<int64_t>(parts.tokens.size()));
  for (size_t id = 0; id < parts.tokens.size(); ++id) {
    number(static_cast<int64_t>(parts.tokens[id].size()));
    number(static_cast<int64_t>(parts.places[id]));
    text += parts.tokens[id];
  }
  number(static_cast<int64_t>(parts.merges.size()));
  for (const BpeMerge& merge : parts.merges) {
    number(merge.left);
    number(merge.right);
  }
  for (const AddedToken& token : parts.added) {
    number(token.id);
    number((token.special ? 2 : 0) + (token.normalized ? 1 : 0));
  }
  number(bos.value_or(-1));
  number(eos.value_or(-1));
  return hash_bytes(text.data(), static_cast<int64_t>(text.size()));
}

std::vector<std::pair<std::string, int32_t>> contents_of(const std::vector<AddedToken>& added, bool normalized) {
  std::vector<std::pair<std::string, int32_t>> contents;
  for (const AddedToken& token : added) {
    if (token.normalized == normalized) contents.emplace_back(token.content, token.id);
  }
  return contents;
}

std::atomic<uint64_t> g_instances{0};

// The cache of the calling thread, emptied when it last served another tokenizer.
PieceCache& thread_cache(uint64_t instance) {
  thread_local PieceCache cache;
  cache.serve(instance);
  return cache;
}

void encode_long_piece(const BpeModel& bpe, PieceCache& cache, std::string_view piece, std::vector<int32_t>& out) {
  if (piece.size() > PieceCache::kMaxLongBytes) return bpe.encode(piece, out);
  PieceCache::LongEntry& entry = cache.long_entry(piece);
  if (entry.piece != piece) {
    entry.piece.clear();  // nothing, should encoding throw
    entry.ids.clear();
    bpe.encode(piece, entry.ids);
    entry.piece = piece;
  }
  out.insert(out.end(), entry.ids.begin(), entry.ids.end());
}

// A piece between the splitter and the cache: its set is on its way from memory.
struct Pending {
  std::string_view piece;
  PieceCache::Key key;
  PieceCache::Set* set;  // null for a long piece
};

class PieceEncoder {
 public:
  PieceEncoder(const BpeModel& bpe, PieceCache& cache, std::vector<int32_t>& out) : bpe_(bpe), cache_(cache), out_(out) {}

  // Pieces go through in batches: the sets of all of them are fetched before the first is looked at, which hides the latency of
  // a cache that is larger than the CPU's.
  void encode(std::string_view text) {
    Pending pending[kBatch];
    const char* p = text.data();
    const char* const end = p + text.size();
    while (p < end) {
      size_t count = 0;
      for (; count < kBatch && p < end; ++count) {
        const char* const next = next_piece(p, end);
        Pending& entry = pending[count];
        entry.piece = {p, static_cast<size_t>(next - p)};
        entry.set = nullptr;
        if (entry.piece.size() <= PieceCache::kMaxBytes) {
          entry.key = PieceCache::make_key(p, entry.piece.size(), end);
          entry.set = &cache_.set(entry.key);
          __builtin_prefetch(entry.set);
        }
        p = next;
      }
      for (size_t i = 0; i < count; ++i) look_up(pending[i]);
      flush();
    }
  }

 private:
  static constexpr size_t kBatch = 64;

  void look_up(const Pending& pending) {
    if (pending.set != nullptr) {
      const PieceCache::Entry* entry = PieceCache::find(*pending.set, pending.key);
      if (entry == nullptr) entry = remember(pending);
      if (entry != nullptr) {
        // All ids, whatever their number: a copy of a fixed size.
        std::copy(entry->ids, entry->ids + PieceCache::kMaxIds, buffer_ + used_);
        used_ += entry->count();
        return;
      }
    }
    flush();
    encode_long_piece(bpe_, cache_, pending.piece, out_);
  }

  // Null where the piece has too many ids for an entry.
  const PieceCache::Entry* remember(const Pending& pending) {
    ids_.clear();
    bpe_.encode(pending.piece, ids_);
    if (ids_.size() > PieceCache::kMaxIds) return nullptr;
    PieceCache::Entry& entry = pending.set->second;
    entry.key = pending.key;
    std::fill(std::copy(ids_.begin(), ids_.end(), entry.ids), entry.ids + PieceCache::kMaxIds, -1);
    return &entry;
  }

  void flush() {
    out_.insert(out_.end(), buffer_, buffer_ + used_);
    used_ = 0;
  }

  const BpeModel& bpe_;
  PieceCache& cache_;
  std::vector<int32_t>& out_;
  std::vector<int32_t> ids_;
  int32_t buffer_[(kBatch + 1) * PieceCache::kMaxIds];
  size_t used_ = 0;
};

// Cuts text at the matches of one matcher: between(text) for what stands between them, the ids go to out.
template <class Between>
void cut_at_matches(const AddedMatcher& matcher, std::string_view text, std::vector<int32_t>& out, Between&& between) {
  size_t from = 0;
  while (true) {
    const AddedMatcher::Match match = matcher.find(text, from);
    if (match.length == 0) break;
    between(text.substr(from, match.begin - from));
    out.push_back(match.id);
    from = match.begin + match.length;
  }
  between(text.substr(from));
}

const Tokenizer::Impl& checked(const Tokenizer::Impl& impl, int32_t id) {
  if (id < 0 || static_cast<size_t>(id) >= impl.parts.tokens.size()) {
    fail("token id {} is out of range: the vocabulary has {} tokens, 0 to {}; were these ids made with another tokenizer?", id,
         impl.parts.tokens.size(), impl.parts.tokens.size() - 1);
  }
  return impl;
}

std::array<int32_t, 256> find_byte_tokens(const TokenizerParts& parts, const std::string& name) {
  std::array<int32_t, 256> byte_tokens;
  byte_tokens.fill(-1);
  for (size_t id = 0; id < parts.tokens.size(); ++id) {
    if (parts.places[id] != TokenPlace::kModel || parts.tokens[id].size() != 1) continue;
    byte_tokens[static_cast<uint8_t>(parts.tokens[id][0])] = static_cast<int32_t>(id);
  }
  for (int byte = 0; byte < 256; ++byte) {
    if (byte_tokens[byte] < 0) {
      fail(
          "{}: model.vocab has no token for the byte 0x{:02x} (character \"{}\"); a byte-level vocabulary with all 256 is "
          "needed",
          name, byte, to_byte_level(std::string(1, static_cast<char>(byte))));
    }
  }
  return byte_tokens;
}

}  // namespace

AddedMatcher::AddedMatcher(std::vector<std::pair<std::string, int32_t>> contents) : sorted_(std::move(contents)) {
  std::sort(sorted_.begin(), sorted_.end());
  int kinds = 0;
  for (const auto& [content, id] : sorted_) {
    const auto byte = static_cast<uint8_t>(content[0]);
    if (!first_bytes_[byte]) ++kinds;
    first_bytes_[byte] = true;
    only_first_ = byte;
  }
  if (kinds != 1) only_first_ = -1;
}

AddedMatcher::Match AddedMatcher::match_at(std::string_view text, size_t at) const {
  Match match{at, 0, 0};
  size_t low = 0, high = sorted_.size();  // the contents that agree with the first `depth` bytes
  for (size_t depth = 0; at + depth < text.size() && low < high; ++depth) {
    const auto byte = static_cast<uint8_t>(text[at + depth]);
    const auto byte_of = [&](size_t i) {
      return sorted_[i].first.size() > depth ? static_cast<uint8_t>(sorted_[i].first[depth]) : -1;
    };
    const auto first_not_below = [&](int bound) {
      size_t a = low, b = high;
      while (a < b) {
        const size_t middle = (a + b) / 2;
        if (byte_of(middle) < bound) {
          a = middle + 1;
        } else {
          b = middle;
        }
      }
      return a;
    };
    const size_t new_low = first_not_below(byte);
    high = first_not_below(byte + 1);
    low = new_low;
    if (low < high && sorted_[low].first.size() == depth + 1) match = {at, depth + 1, sorted_[low].second};
  }
  return match;
}

AddedMatcher::Match AddedMatcher::find(std::string_view text, size_t from) const {
  if (sorted_.empty()) return {0, 0, 0};
  for (size_t at = from; at < text.size(); ++at) {
    if (only_first_ >= 0) {
      const void* hit = std::memchr(text.data() + at, only_first_, text.size() - at);
      if (hit == nullptr) break;
      at = static_cast<size_t>(static_cast<const char*>(hit) - text.data());
    } else if (!first_bytes_[static_cast<uint8_t>(text[at])]) {
      continue;
    }
    const Match match = match_at(text, at);
    if (match.length > 0) return match;
  }
  return {0, 0, 0};
}

Tokenizer::Impl::Impl(TokenizerParts parts_in, BpeModel bpe_in)
    : parts(std::move(parts_in)),
      bpe(std::move(bpe_in)),
      special(parts.tokens.size(), 0),
      is_added(parts.tokens.size(), 0),
      raw_matcher(contents_of(parts.added, false)),
      normalized_matcher(contents_of(parts.added, true)),
      instance(++g_instances) {
  for (const AddedToken& token : parts.added) {
    special[token.id] = token.special;
    is_added[token.id] = 1;
    added_ids.emplace(token.content, token.id);
  }
}

Tokenizer make_tokenizer(TokenizerParts parts, const std::string& name) {
  const std::array<int32_t, 256> byte_tokens = find_byte_tokens(parts, name);
  int64_t duplicate = -1;
  BpeModel bpe(byte_tokens, parts.merges, &duplicate);
  if (duplicate >= 0) {
    const BpeMerge& merge = parts.merges[static_cast<size_t>(duplicate)];
    fail("{}: model.merges[{}] repeats an earlier merge (\"{}\" and \"{}\")", name, duplicate,
         to_byte_level(parts.tokens[merge.left]), to_byte_level(parts.tokens[merge.right]));
  }
  auto impl = std::make_shared<Tokenizer::Impl>(std::move(parts), std::move(bpe));
  const auto role = [&](const std::string& content, const char* key) -> std::optional<int32_t> {
    if (content.empty()) return std::nullopt;
    const auto found = impl->added_ids.find(content);
    if (found == impl->added_ids.end())
      fail("{}: {} names \"{}\", which is no added token of tokenizer.json", name, key, content);
    return found->second;
  };
  impl->bos = role(impl->parts.bos, "bos_token");
  impl->eos = role(impl->parts.eos, "eos_token");
  impl->fingerprint = hash_parts(impl->parts, impl->bos, impl->eos);
  return Tokenizer(std::move(impl));
}

void Tokenizer::encode(std::string_view text, std::vector<int32_t>& append_to) const {
  PieceEncoder encoder(impl_->bpe, thread_cache(impl_->instance), append_to);
  cut_at_matches(impl_->raw_matcher, text, append_to, [&](std::string_view part) {
    cut_at_matches(impl_->normalized_matcher, part, append_to, [&](std::string_view plain) { encoder.encode(plain); });
  });
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3);  // most texts need less
  encode(text, ids);
  return ids;
}

void Tokenizer::encode_ordinary(std::string_view text, std::vector<int32_t>& append_to) const {
  PieceEncoder(impl_->bpe, thread_cache(impl_->instance), append_to).encode(text);
}

std::vector<int32_t> Tokenizer::encode_ordinary(std::string_view text) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3);  // most texts need less
  encode_ordinary(text, ids);
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string text;
  for (const int32_t id : ids) {
    checked(*impl_, id);
    if (!skip_special || impl_->special[id] == 0) text += impl_->parts.tokens[id];
  }
  return text;
}

int32_t Tokenizer::vocab_size() const {
  return static_cast<int32_t>(impl_->parts.tokens.size());
}

std::string_view Tokenizer::token(int32_t id) const {
  return checked(*impl_, id).parts.tokens[id];
}

std::optional<int32_t> Tokenizer::id_of(std::string_view added_token) const {
  const auto found = impl_->added_ids.find(std::string(added_token));
  if (found == impl_->added_ids.end()) return std::nullopt;
  return found->second;
}

bool Tokenizer::is_special(int32_t id) const {
  return checked(*impl_, id).special[id] != 0;
}
bool Tokenizer::is_added(int32_t id) const {
  return checked(*impl_, id).is_added[id] != 0;
}
std::optional<int32_t> Tokenizer::bos_id() const {
  return impl_->bos;
}
std::optional<int32_t> Tokenizer::eos_id() const {
  return impl_->eos;
}
std::optional<int32_t> Tokenizer::pad_id() const {
  return id_of(kPadding);
}
std::optional<int32_t> Tokenizer::fim_hole_id() const {
  return id_of(kFimHole);
}
std::optional<int32_t> Tokenizer::fim_begin_id() const {
  return id_of(kFimBegin);
}
std::optional<int32_t> Tokenizer::fim_end_id() const {
  return id_of(kFimEnd);
}
uint64_t Tokenizer::fingerprint() const {
  return impl_->fingerprint;
}

}  // namespace rorqual
