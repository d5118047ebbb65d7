// JSON of requests, read strictly: what is unknown, of the wrong type or out of range is a 400 that names the parameter.
#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>

namespace rorqual {

// What a client did wrong, or the server cannot do: an answer with this status and {"error":{…}}. The message may be read by
// anybody: it names no path.
struct ApiError : std::runtime_error {
  ApiError(int http_status, const std::string& message, std::string parameter = {}, std::string error_code = {})
      : std::runtime_error(message), status(http_status), param(std::move(parameter)), code(std::move(error_code)) {}
  int status;
  std::string param, code;  // empty: null
  std::optional<std::chrono::seconds> retry_after;
};

// {"error":{"message","type","param","code"}}
nlohmann::ordered_json error_json(const ApiError& error);

// Valid UTF-8, one object, at most 64 levels deep, no key twice. Throws ApiError (400).
nlohmann::ordered_json parse_api_body(std::string_view body);

// The text of an answer; bytes that are no UTF-8 become U+FFFD.
std::string dump_json(const nlohmann::ordered_json& json);

// The members of one object, each asked for once. A member that is null counts as absent. `finish` refuses what nobody asked
// for. Throws ApiError (400).
class ApiFields {
 public:
  // `where` stands before the names of members in messages: "messages[0]".
  explicit ApiFields(const nlohmann::ordered_json& object, std::string where = {});

  const nlohmann::ordered_json* any(const std::string& name);  // null where it is absent
  std::optional<bool> boolean(const std::string& name);
  std::optional<int64_t> integer(const std::string& name, int64_t least, int64_t most);
  std::optional<double> number(const std::string& name, double least, double most);
  std::optional<std::string> string(const std::string& name);
  const nlohmann::ordered_json* array(const std::string& name);
  const nlohmann::ordered_json* object(const std::string& name);
  void finish() const;

  std::string full_name(const std::string& name) const { return where_.empty() ? name : where_ + "." + name; }
  [[noreturn]] void refuse(const std::string& name, std::string_view why) const;

 private:
  const nlohmann::ordered_json& object_;
  std::string where_;
  std::set<std::string> known_;
};

// A token of a vocabulary.
int32_t token_of(const nlohmann::ordered_json& value, const std::string& param, int64_t vocabulary);

}  // namespace rorqual
