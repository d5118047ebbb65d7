// `response_format` of a request as what the engine holds the text to.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>

#include "data/tokenizer.h"
#include "serve/constraint.h"

namespace rorqual {

// `format` is null (none) or has passed parse_chat_completion: json_object, json_schema or regex. `vocabulary` counts the
// model's logits. Throws ApiError (400) naming the parameter where the grammar cannot be compiled.
std::unique_ptr<Constraint> compile_constraint(const nlohmann::ordered_json& format, const Tokenizer& tokenizer,
                                               int64_t vocabulary);

}  // namespace rorqual
