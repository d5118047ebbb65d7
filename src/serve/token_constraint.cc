#include "serve/token_constraint.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"

namespace rorqual {
namespace {

// Masks kept: at 129,280 tokens 16 KiB each.
constexpr size_t kMostMasks = 1024;

void set_bit(std::vector<uint64_t>& mask, int32_t i) {
  mask[static_cast<size_t>(i) / 64] |= uint64_t{1} << (i % 64);
}

class TokenConstraint : public Constraint {
 public:
  TokenConstraint(std::shared_ptr<TokenGrammar> grammar, Matcher::State state) : grammar_(std::move(grammar)), state_(state) {}
  void restrict_tokens(std::span<uint64_t> allowed) const override { grammar_->restrict_tokens(state_, allowed); }
  void accept(int32_t token) override { state_ = grammar_->after(state_, token); }
  bool finished() const override { return grammar_->finished(state_); }
  std::unique_ptr<Constraint> clone() const override { return std::make_unique<TokenConstraint>(grammar_, state_); }

 private:
  std::shared_ptr<TokenGrammar> grammar_;
  Matcher::State state_;
};

}  // namespace

TokenTree::TokenTree(const Tokenizer& tokenizer) : text_(static_cast<size_t>(tokenizer.vocab_size())) {
  end_ = tokenizer.eos_id().value_or(-1);
  std::vector<int32_t> order;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (tokenizer.is_added(id) || tokenizer.token(id).empty()) continue;
    text_[static_cast<size_t>(id)] = tokenizer.token(id);
    order.push_back(id);
  }
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    const auto &x = text_[static_cast<size_t>(a)], &y = text_[static_cast<size_t>(b)];
    return x != y ? x < y : a < b;
  });
  tokens_ = order;
  std::vector<int32_t> path;  // the nodes of the last entry's bytes
  const std::string* last = nullptr;
  for (size_t i = 0; i < order.size(); ++i) {
    const std::string& text = text_[static_cast<size_t>(order[i])];
    if (last != nullptr && *last == text) {
      ++nodes_[static_cast<size_t>(path.back())].token_count;
      continue;
    }
    const size_t common =
        last == nullptr
            ? 0
            : static_cast<size_t>(std::mismatch(text.begin(), text.end(), last->begin(), last->end()).first - text.begin());
    while (path.size() > common) {
      nodes_[static_cast<size_t>(path.back())].after = static_cast<int32_t>(nodes_.size());
      path.pop_back();
    }
    for (size_t k = common; k < text.size(); ++k) {
      path.push_back(static_cast<int32_t>(nodes_.size()));
      nodes_.push_back({.byte = static_cast<uint8_t>(text[k]), .depth = static_cast<int32_t>(k) + 1});
    }
    nodes_.back().first_token = static_cast<int32_t>(i);
    nodes_.back().token_count = 1;
    last = &text;
  }
  for (const int32_t node : path) nodes_[static_cast<size_t>(node)].after = static_cast<int32_t>(nodes_.size());
}

TokenGrammar::TokenGrammar(Grammar grammar, std::shared_ptr<const TokenTree> tree)
    : matcher_(std::move(grammar)), tree_(std::move(tree)) {}

Matcher::State TokenGrammar::after(Matcher::State state, int32_t token) {
  if (token < 0 || token >= tree_->vocabulary()) return Matcher::kDead;
  const std::string_view bytes = tree_->bytes_of(token);
  if (bytes.empty()) return Matcher::kDead;
  const std::lock_guard lock(mutex_);
  for (const char c : bytes) state = matcher_.next(state, static_cast<uint8_t>(c));
  return state;
}

bool TokenGrammar::finished(Matcher::State state) {
  const std::lock_guard lock(mutex_);
  return matcher_.finished(state);
}

// Walks the tree with the grammar, leaving out what lies below a byte that may not follow.
const std::vector<uint64_t>& TokenGrammar::mask(Matcher::State state) {
  if (const auto known = masks_.find(state); known != masks_.end()) return known->second;
  if (masks_.size() >= kMostMasks) masks_.clear();
  std::vector<uint64_t> mask((static_cast<size_t>(tree_->vocabulary()) + 63) / 64, 0);
  std::vector<Matcher::State> at = {state};  // after so many bytes
  const auto& nodes = tree_->nodes();
  for (size_t i = 0; i < nodes.size();) {
    const TokenTree::Node& node = nodes[i];
    const auto depth = static_cast<size_t>(node.depth);
    const Matcher::State next = matcher_.next(at[depth - 1], node.byte);
    if (next == Matcher::kDead) {
      i = static_cast<size_t>(node.after);
      continue;
    }
    at.resize(depth);
    at.push_back(next);
    for (int32_t t = 0; t < node.token_count; ++t)
      set_bit(mask, tree_->tokens()[static_cast<size_t>(node.first_token) + static_cast<size_t>(t)]);
    ++i;
  }
  if (tree_->end_token() >= 0 && matcher_.accepts(state)) set_bit(mask, tree_->end_token());
  return masks_.emplace(state, std::move(mask)).first->second;
}

void TokenGrammar::restrict_tokens(Matcher::State state, std::span<uint64_t> allowed) {
  if (state == Matcher::kDead) return std::fill(allowed.begin(), allowed.end(), 0);
  const std::lock_guard lock(mutex_);
  const std::vector<uint64_t>& kept = mask(state);
  for (size_t i = 0; i < allowed.size(); ++i) allowed[i] &= i < kept.size() ? kept[i] : 0;
}

std::unique_ptr<Constraint> make_constraint(std::shared_ptr<TokenGrammar> grammar) {
  const Matcher::State start = grammar->start();
  return std::make_unique<TokenConstraint>(std::move(grammar), start);
}

}  // namespace rorqual
