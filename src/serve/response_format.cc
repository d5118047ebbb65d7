#include "serve/response_format.h"

#include "serve/api_json.h"

namespace rorqual {

std::unique_ptr<Constraint> compile_constraint(const nlohmann::ordered_json& format, const Tokenizer& /*tokenizer*/,
                                               int64_t /*vocabulary*/) {
  if (format.is_null()) return nullptr;
  throw ApiError(400, "'response_format' other than text is not supported", "response_format", "unsupported_parameter");
}

}  // namespace rorqual
