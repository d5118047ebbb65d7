// Lines that a person types: with editing and a history of this session (libedit) at a terminal, as they are from a pipe.
#pragma once

#include <memory>
#include <optional>
#include <string>

namespace rorqual {

class LineEditor {
 public:
  LineEditor();
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  bool terminal() const { return terminal_ != nullptr; }
  // One line without its end; none at the end of the input. The prompt goes to standard error, and to a terminal alone.
  std::optional<std::string> read(const char* prompt);

 private:
  struct Terminal;
  std::unique_ptr<Terminal> terminal_;
};

}  // namespace rorqual
