// Calls of functions in a model's text, as DeepSeek's chat templates write them:
//   V3
//   <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\nARGUMENTS\n```<｜tool▁call▁end｜>…<｜tool▁calls▁end｜>
//   V3.1  <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>NAME<｜tool▁sep｜>ARGUMENTS<｜tool▁call▁end｜>…<｜tool▁calls▁end｜>
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace rorqual {

enum class ToolFormat { kNone, kV3, kV31 };

struct ToolCall {
  std::string name, arguments;  // arguments: as the model wrote them, JSON if it did well
};

// Parts a text that comes in pieces into what is for the user and what calls functions. Either form is understood.
class ToolCallParser {
 public:
  struct Output {
    std::string content;
    std::vector<ToolCall> calls;  // whole ones
  };
  // `end`: nothing follows; a call that is not whole then is content.
  Output add(std::string_view piece, bool end);

 private:
  bool step(Output& out, bool end);

  std::string pending_;
  bool inside_ = false;  // behind calls▁begin
};

// What the prompt ends with where the model must call a function; `name` may be empty: any. The parser gets it first.
std::string forced_tool_call(ToolFormat format, const std::string& name);
// What follows the arguments of the last call.
std::string end_of_tool_call(ToolFormat format);

}  // namespace rorqual
