// What the next token may be, for output that must follow a grammar (JSON schema, regular expression). A state of one sequence.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

namespace rorqual {

class Constraint {
 public:
  virtual ~Constraint() = default;
  // Clears the bits of tokens that may not follow: bit i % 64 of word i / 64. The end token stays only where the text may end.
  virtual void restrict_tokens(std::span<uint64_t> allowed) const = 0;
  // The sequence goes on with this token, which was allowed.
  virtual void accept(int32_t token) = 0;
  // The text is complete, and nothing may follow but the end.
  virtual bool finished() const = 0;
  virtual std::unique_ptr<Constraint> clone() const = 0;  // drafts look ahead on a copy
};

}  // namespace rorqual
