#include "jinja/template.h"

#include "base/error.h"
#include "jinja/evaluator.h"
#include "jinja/parser.h"

namespace rorqual {

JinjaTemplate JinjaTemplate::parse(std::string_view text, const std::string& name) {
  constexpr size_t kMostBytes = 4 << 20;
  if (text.size() > kMostBytes) fail("{}: a template of {} bytes; at most {} are supported", name, text.size(), kMostBytes);
  return JinjaTemplate(std::make_shared<const jinja::Program>(jinja::parse_program(jinja::tokenize(text, name), name)));
}

std::string JinjaTemplate::render(const nlohmann::ordered_json& variables, const JinjaOptions& options) const {
  if (!variables.is_object()) fail("{}: the variables are no object", program_->name);
  return jinja::Evaluator(*program_, options).render(variables);
}

}  // namespace rorqual
