// Chat templates: the part of the Jinja language that they use, rendered as transformers does (trim_blocks and lstrip_blocks
// on, nothing escaped, lists and dictionaries immutable). Written after the behaviour of Python's Jinja2 3.1.
//
// Statements: for (else, filter, unpacking), if, set (values, blocks, attributes of namespaces), macro, call, filter, with,
// raw, break, continue, generation. Expressions: all operators, slices, calls with * and **, inline if. What is missing
// (include, extends, block, recursive loops, …) is an Error that names the line and the construct;
// docs/formats/chat_template.md lists all.
//
// Bounded whatever the template: nesting, work, and with it memory and output.
#pragma once

#include <cstdint>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace rorqual {

struct JinjaOptions {
  // Work of one rendering: a byte produced or searched is 1, an element 16, a step of the evaluation 32. The default is a few
  // seconds at most.
  int64_t work = int64_t{1} << 30;
  std::optional<std::time_t> now;  // for strftime_now (local time); else the clock
};

namespace jinja {
struct Program;
}

// Immutable and cheap to copy; const use is safe from any number of threads.
class JinjaTemplate {
 public:
  // Errors name `name` and the line. The text must be valid UTF-8.
  static JinjaTemplate parse(std::string_view text, const std::string& name);

  // `variables` is an object. Error where the template raises one, does what Python refuses, or needs what is unsupported.
  std::string render(const nlohmann::ordered_json& variables, const JinjaOptions& options = {}) const;

 private:
  explicit JinjaTemplate(std::shared_ptr<const jinja::Program> program) : program_(std::move(program)) {}
  std::shared_ptr<const jinja::Program> program_;
};

}  // namespace rorqual
