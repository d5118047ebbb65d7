// A generated text as it may be shown: whole characters, and nothing that could still turn out to begin a stop string.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace rorqual {

class OutputText {
 public:
  explicit OutputText(std::vector<std::string> stop);  // none of them empty

  // The text goes on with these bytes. True: a stop string stands in it; the text ends before the first one.
  bool add(std::string_view bytes);
  // What may be shown since the last call; at the end all that is left. Bytes that are no UTF-8 become U+FFFD.
  std::string take(bool end);

 private:
  size_t held_back() const;  // bytes at the end that could begin a stop string

  std::vector<std::string> stop_;
  std::string pending_;  // not yet shown
  bool stopped_ = false;
};

// The text with every byte that is no valid UTF-8 replaced by U+FFFD.
std::string valid_utf8(std::string_view text);

}  // namespace rorqual
