#include "serve/response_format.h"

#include <algorithm>

#include "base/error.h"
#include "grammar/json_schema.h"
#include "grammar/regex.h"
#include "serve/api_json.h"

namespace rorqual {
namespace {

constexpr size_t kMostGrammars = 32;

Grammar grammar_of(const nlohmann::ordered_json& format) {
  const std::string type = format.at("type");
  if (type == "json_object") return json_object_grammar();
  if (type == "regex") return make_grammar({parse_regex(format.at("regex").get<std::string>())});
  return json_schema_grammar(format.at("json_schema").at("schema"));
}

}  // namespace

std::unique_ptr<Constraint> ConstraintCompiler::compile(const nlohmann::ordered_json& format, const std::string& parameter) {
  if (format.is_null()) return nullptr;
  const std::lock_guard lock(mutex_);
  const std::string key = format.dump();
  const auto known = std::find_if(grammars_.begin(), grammars_.end(), [&](const auto& g) { return g.first == key; });
  if (known != grammars_.end()) {
    grammars_.splice(grammars_.begin(), grammars_, known);
    return make_constraint(grammars_.front().second);
  }
  try {
    Grammar grammar = grammar_of(format);
    if (!tree_) tree_ = std::make_shared<const TokenTree>(tokenizer_);
    grammars_.emplace_front(key, std::make_shared<TokenGrammar>(std::move(grammar), tree_));
  } catch (const Error& e) {
    throw ApiError(400, e.what(), parameter, "unsupported_grammar");
  }
  if (grammars_.size() > kMostGrammars) grammars_.pop_back();
  return make_constraint(grammars_.front().second);
}

}  // namespace rorqual
