#include "cli/line_editor.h"

#include <histedit.h>
#include <unistd.h>

#include <clocale>
#include <cstdio>
#include <iostream>

#include "base/error.h"

namespace rorqual {

struct LineEditor::Terminal {
  struct Close {
    void operator()(EditLine* e) const { el_end(e); }
    void operator()(History* h) const { history_end(h); }
  };

  Terminal() {
    std::setlocale(LC_CTYPE, "");  // bytes into characters, for the cursor
    HistEvent event;
    CHECK(past && editor);
    history(past.get(), &event, H_SETSIZE, 1000);
    history(past.get(), &event, H_SETUNIQUE, 1);
    el_set(editor.get(), EL_CLIENTDATA, this);
    el_set(editor.get(), EL_PROMPT, &Terminal::prompt_of);
    el_set(editor.get(), EL_SIGNAL, 1);  // Ctrl-C ends the program with the terminal as it was
    el_set(editor.get(), EL_HIST, history, past.get());
    el_set(editor.get(), EL_EDITOR, "emacs");
    el_source(editor.get(), nullptr);  // the user's ~/.editrc
  }

  static const char* prompt_of(EditLine* e) {
    Terminal* self = nullptr;
    el_get(e, EL_CLIENTDATA, &self);
    return self->prompt;
  }

  std::unique_ptr<History, Close> past{history_init()};
  std::unique_ptr<EditLine, Close> editor{el_init("rorqual", stdin, stderr, stderr)};
  const char* prompt = "";
};

LineEditor::LineEditor() {
  if (::isatty(STDIN_FILENO) != 0) terminal_ = std::make_unique<Terminal>();
}

LineEditor::~LineEditor() = default;

std::optional<std::string> LineEditor::read(const char* prompt) {
  std::string line;
  if (!terminal_) return std::getline(std::cin, line) ? std::optional(line) : std::nullopt;
  terminal_->prompt = prompt;
  int length = 0;
  const char* typed = el_gets(terminal_->editor.get(), &length);
  if (typed == nullptr || length <= 0) return std::nullopt;
  line.assign(typed, static_cast<size_t>(length));
  HistEvent event;
  if (line.find_first_not_of(" \t\n") != line.npos) history(terminal_->past.get(), &event, H_ENTER, typed);
  if (line.ends_with('\n')) line.pop_back();
  return line;
}

}  // namespace rorqual
