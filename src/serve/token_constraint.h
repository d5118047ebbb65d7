// Output that must follow a grammar, token by token: which entries of a tokenizer keep a text inside a language of bytes.
#pragma once

#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "data/tokenizer.h"
#include "grammar/matcher.h"
#include "serve/constraint.h"

namespace rorqual {

// The ordinary entries of a tokenizer (none that was added: those are signs, not text) as a tree of their bytes, in preorder.
// Made once per tokenizer.
class TokenTree {
 public:
  explicit TokenTree(const Tokenizer& tokenizer);

  struct Node {
    uint8_t byte = 0;
    int32_t depth = 0;                         // bytes of the entry
    int32_t after = 0;                         // the first node outside of this one's subtree
    int32_t first_token = 0, token_count = 0;  // entries of just these bytes, in tokens()
  };
  const std::vector<Node>& nodes() const { return nodes_; }
  const std::vector<int32_t>& tokens() const { return tokens_; }
  std::string_view bytes_of(int32_t token) const { return text_[static_cast<size_t>(token)]; }  // empty: not ordinary
  int32_t end_token() const { return end_; }
  int64_t vocabulary() const { return static_cast<int64_t>(text_.size()); }

 private:
  std::vector<std::string> text_;
  std::vector<Node> nodes_;
  std::vector<int32_t> tokens_;
  int32_t end_ = -1;
};

// A grammar with what was found out about it, shared by the sequences that follow it; safe from any number of threads.
class TokenGrammar {
 public:
  TokenGrammar(Grammar grammar, std::shared_ptr<const TokenTree> tree);

  Matcher::State start() const { return 0; }
  Matcher::State after(Matcher::State state, int32_t token);
  bool finished(Matcher::State state);
  void restrict_tokens(Matcher::State state, std::span<uint64_t> allowed);

 private:
  const std::vector<uint64_t>& mask(Matcher::State state);

  std::mutex mutex_;
  Matcher matcher_;
  std::shared_ptr<const TokenTree> tree_;
  std::unordered_map<Matcher::State, std::vector<uint64_t>> masks_;
};

// A sequence at its beginning. A token that leaves the grammar (which the engine never takes) leaves no token allowed.
std::unique_ptr<Constraint> make_constraint(std::shared_ptr<TokenGrammar> grammar);

}  // namespace rorqual
