#include "serve/api_json.h"

#include <fmt/format.h>

#include <cmath>
#include <vector>

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;
constexpr int kMostDepth = 64;

const char* type_of_status(int status) {
  if (status == 401) return "authentication_error";
  if (status == 403) return "permission_error";
  if (status == 404) return "not_found_error";
  if (status == 429) return "rate_limit_error";
  return status >= 500 ? "server_error" : "invalid_request_error";
}

// Refuses depth and duplicates while the text is read, before anything of it is kept.
class StrictReader {
 public:
  bool operator()(int depth, Json::parse_event_t event, Json& value) {
    using Event = Json::parse_event_t;
    if (depth > kMostDepth) throw ApiError(400, fmt::format("the JSON is more than {} levels deep", kMostDepth));
    if (event == Event::object_start) keys_.emplace_back();
    if (event == Event::object_end) keys_.pop_back();
    if (event == Event::key && !keys_.back().insert(value.get<std::string>()).second)
      throw ApiError(400, fmt::format("the JSON has the member '{}' twice in one object", value.get<std::string>()),
                     value.get<std::string>());
    return true;
  }

 private:
  std::vector<std::set<std::string>> keys_;
};

}  // namespace

Json error_json(const ApiError& error) {
  const auto text = [](const std::string& s) { return s.empty() ? Json(nullptr) : Json(s); };
  return {{"error",
           {{"message", error.what()},
            {"type", type_of_status(error.status)},
            {"param", text(error.param)},
            {"code", text(error.code)}}}};
}

Json parse_api_body(std::string_view body) {
  Json json;
  StrictReader reader;
  try {
    json = Json::parse(body, [&](int depth, Json::parse_event_t event, Json& value) { return reader(depth, event, value); });
  } catch (const Json::exception& e) {
    // The library's text says where, behind its own name for the error.
    const std::string_view what = e.what();
    const size_t end = what.find("] ");
    throw ApiError(400, fmt::format("the body is no JSON: {}", end == what.npos ? what : what.substr(end + 2)));
  }
  if (!json.is_object()) throw ApiError(400, "the body must be a JSON object");
  return json;
}

std::string dump_json(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

ApiFields::ApiFields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
  if (!object.is_object()) throw ApiError(400, fmt::format("'{}' must be an object", where_), where_);
}

void ApiFields::refuse(const std::string& name, std::string_view why) const {
  throw ApiError(400, fmt::format("'{}' {}", full_name(name), why), full_name(name));
}

const Json* ApiFields::any(const std::string& name) {
  known_.insert(name);
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

std::optional<bool> ApiFields::boolean(const std::string& name) {
  const Json* value = any(name);
  if (!value) return {};
  if (!value->is_boolean()) refuse(name, "must be true or false");
  return value->get<bool>();
}

std::optional<int64_t> ApiFields::integer(const std::string& name, int64_t least, int64_t most) {
  const Json* value = any(name);
  if (!value) return {};
  const bool fits = value->is_number_integer() && (!value->is_number_unsigned() || value->get<uint64_t>() <= INT64_MAX);
  if (!fits || value->get<int64_t>() < least || value->get<int64_t>() > most)
    refuse(name, fmt::format("must be an integer from {} to {}", least, most));
  return value->get<int64_t>();
}

std::optional<double> ApiFields::number(const std::string& name, double least, double most) {
  const Json* value = any(name);
  if (!value) return {};
  if (!value->is_number() || !(value->get<double>() >= least && value->get<double>() <= most))
    refuse(name, fmt::format("must be a number from {} to {}", least, most));
  return value->get<double>();
}

std::optional<std::string> ApiFields::string(const std::string& name) {
  const Json* value = any(name);
  if (!value) return {};
  if (!value->is_string()) refuse(name, "must be a string");
  return value->get<std::string>();
}

const Json* ApiFields::array(const std::string& name) {
  const Json* value = any(name);
  if (value && !value->is_array()) refuse(name, "must be a list");
  return value;
}

const Json* ApiFields::object(const std::string& name) {
  const Json* value = any(name);
  if (value && !value->is_object()) refuse(name, "must be an object");
  return value;
}

void ApiFields::finish() const {
  for (const auto& [name, value] : object_.items())
    if (!known_.contains(name))
      throw ApiError(400, fmt::format("'{}' is not supported", full_name(name)), full_name(name), "unsupported_parameter");
}

int32_t token_of(const Json& value, const std::string& param, int64_t vocabulary) {
  const bool fits = value.is_number_integer() && (!value.is_number_unsigned() || value.get<uint64_t>() <= INT64_MAX);
  if (!fits || value.get<int64_t>() < 0 || value.get<int64_t>() >= vocabulary)
    throw ApiError(400, fmt::format("'{}' must hold token ids from 0 to {}", param, vocabulary - 1), param);
  return value.get<int32_t>();
}

}  // namespace rorqual
