// `response_format` of a request as what the engine holds the text to.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "data/tokenizer.h"
#include "serve/token_constraint.h"

namespace rorqual {

// One for a model; keeps the grammars that were asked for last, with what was found out about them. Thread-safe.
class ConstraintCompiler {
 public:
  explicit ConstraintCompiler(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  // `format` is null (no constraint: null) or has passed parse_chat_completion: json_object, json_schema or regex. Throws
  // ApiError (400), naming the parameter that it came in, where no grammar can be made of it.
  std::unique_ptr<Constraint> compile(const nlohmann::ordered_json& format, const std::string& parameter);

 private:
  const Tokenizer tokenizer_;
  std::mutex mutex_;
  std::shared_ptr<const TokenTree> tree_;                                      // made when first needed
  std::list<std::pair<std::string, std::shared_ptr<TokenGrammar>>> grammars_;  // last used first
};

}  // namespace rorqual
