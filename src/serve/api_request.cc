#include "serve/api_request.h"

#include <fmt/format.h>

#include <set>

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMostTokens = int64_t{1} << 31;

std::string at(const std::string& list, size_t i) {
  return fmt::format("{}[{}]", list, i);
}

std::vector<std::string> parse_stop(ApiFields& f) {
  const Json* value = f.any("stop");
  if (!value) return {};
  std::vector<std::string> stop;
  const Json list = value->is_string() ? Json::array({*value}) : *value;
  if (!list.is_array() || list.size() > kMostStops)
    f.refuse("stop", fmt::format("must be a string or up to {} strings", kMostStops));
  for (const Json& s : list) {
    if (!s.is_string() || s.get_ref<const std::string&>().empty()) f.refuse("stop", "must hold strings that are not empty");
    stop.push_back(s.get<std::string>());
  }
  return stop;
}

std::vector<std::pair<std::string, double>> parse_logit_bias(ApiFields& f) {
  std::vector<std::pair<std::string, double>> bias;
  const Json* value = f.object("logit_bias");
  if (!value) return bias;
  for (const auto& [token, b] : value->items()) {
    if (!b.is_number() || !(b.get<double>() >= -100 && b.get<double>() <= 100))
      f.refuse("logit_bias", "must map token ids to numbers from -100 to 100");
    bias.emplace_back(token, b.get<double>());
  }
  return bias;
}

Json parse_response_format(ApiFields& f) {
  const Json* value = f.object("response_format");
  if (!value) return nullptr;
  ApiFields format(*value, "response_format");
  const std::string type = format.string("type").value_or("");
  if (type == "text") {
    format.finish();
    return nullptr;
  }
  if (type == "json_object") {
    format.finish();
  } else if (type == "json_schema") {
    const Json* schema = format.object("json_schema");
    if (!schema) format.refuse("json_schema", "is missing");
    ApiFields s(*schema, "response_format.json_schema");
    s.string("name");
    s.string("description");
    s.boolean("strict");
    if (!s.any("schema")) s.refuse("schema", "is missing");
    s.finish();
    format.finish();
  } else if (type == "regex") {
    if (!format.string("regex")) format.refuse("regex", "is missing");
    format.finish();
  } else {
    format.refuse("type", "must be text, json_object, json_schema or regex");
  }
  return *value;
}

GenerationOptions parse_options(ApiFields& f) {
  GenerationOptions o;
  o.model = f.string("model").value_or("");
  o.stream = f.boolean("stream").value_or(false);
  if (const Json* options = f.object("stream_options")) {
    if (!o.stream) f.refuse("stream_options", "needs \"stream\": true");
    ApiFields s(*options, "stream_options");
    o.include_usage = s.boolean("include_usage").value_or(false);
    s.finish();
  }
  o.n = f.integer("n", 1, kMostChoices).value_or(1);
  o.stop = parse_stop(f);
  if (const auto seed = f.integer("seed", INT64_MIN, INT64_MAX)) o.seed = static_cast<uint64_t>(*seed);
  SamplingSettings& s = o.sampling;
  s.temperature = f.number("temperature", 0, 100).value_or(1);
  s.top_p = f.number("top_p", 0, 1).value_or(1);
  if (s.top_p == 0) s.top_p = 1e-9;  // OpenAI's range begins at 0: the likeliest token alone
  s.top_k = f.integer("top_k", -1, INT32_MAX).value_or(0);
  if (s.top_k < 0) s.top_k = 0;  // vLLM's word for "all"
  s.min_p = f.number("min_p", 0, 1).value_or(0);
  s.presence_penalty = f.number("presence_penalty", -2, 2).value_or(0);
  s.frequency_penalty = f.number("frequency_penalty", -2, 2).value_or(0);
  s.repetition_penalty = f.number("repetition_penalty", 0.01, 100).value_or(1);
  o.logit_bias = parse_logit_bias(f);
  o.response_format = parse_response_format(f);
  f.string("user");  // changes nothing by definition
  return o;
}

// One text of a string or a list of text parts.
std::string content_text(const Json& content, const std::string& where) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) throw ApiError(400, fmt::format("'{}' must be a string or a list of text parts", where), where);
  std::string text;
  for (size_t i = 0; i < content.size(); ++i) {
    ApiFields part(content[i], at(where, i));
    if (part.string("type").value_or("") != "text") part.refuse("type", "must be \"text\": other parts are not supported");
    const auto piece = part.string("text");
    if (!piece) part.refuse("text", "is missing");
    part.finish();
    text += *piece;
  }
  return text;
}

Json parse_tool_calls(const Json& calls, const std::string& where) {
  Json out = Json::array();
  for (size_t i = 0; i < calls.size(); ++i) {
    ApiFields call(calls[i], at(where, i));
    const std::string id = call.string("id").value_or("");
    if (call.string("type").value_or("function") != "function") call.refuse("type", "must be \"function\"");
    call.integer("index", 0, INT32_MAX);  // as streams have it
    const Json* function = call.object("function");
    if (!function) call.refuse("function", "is missing");
    ApiFields fields(*function, at(where, i) + ".function");
    const auto name = fields.string("name"), arguments = fields.string("arguments");
    if (!name) fields.refuse("name", "is missing");
    fields.finish();
    call.finish();
    out.push_back({{"id", id}, {"type", "function"}, {"function", {{"name", *name}, {"arguments", arguments.value_or("{}")}}}});
  }
  return out;
}

Json parse_message(const Json& message, const std::string& where) {
  static const std::set<std::string> kRoles = {"system", "developer", "user", "assistant", "tool"};
  ApiFields f(message, where);
  const std::string role = f.string("role").value_or("");
  if (!kRoles.contains(role)) f.refuse("role", "must be system, developer, user, assistant or tool");
  Json out = {{"role", role == "developer" ? "system" : role}, {"content", nullptr}};
  if (const Json* content = f.any("content")) out["content"] = content_text(*content, f.full_name("content"));
  if (const auto name = f.string("name")) out["name"] = *name;
  if (role == "assistant") {
    if (const Json* calls = f.array("tool_calls"); calls && !calls->empty())
      out["tool_calls"] = parse_tool_calls(*calls, f.full_name("tool_calls"));
    // Members of an answer that clients send back as they got it.
    for (const char* empty : {"refusal", "annotations", "audio", "function_call"})
      if (const Json* value = f.any(empty); value && !value->empty()) f.refuse(empty, "is not supported");
    if (out.contains("tool_calls") && out["content"] == "") out["content"] = nullptr;
  }
  if (role == "tool") out["tool_call_id"] = f.string("tool_call_id").value_or("");
  if (out["content"].is_null() && !out.contains("tool_calls")) f.refuse("content", "is missing");
  f.finish();
  return out;
}

// Arguments are held to a function's schema where it is known beforehand which function is called.
void apply_strict(ChatRequest& r) {
  if (r.tools.is_null()) return;
  for (size_t i = 0; i < r.tools.size(); ++i) {
    const Json& function = r.tools[i]["function"];
    if (!function.contains("strict") || function["strict"] != true) continue;
    if (r.tool_name.empty()) {
      throw ApiError(400,
                     "a strict function needs a 'tool_choice' that leaves no other: its name, or \"required\" where it is the "
                     "only one",
                     at("tools", i) + ".function.strict", "unsupported_parameter");
    }
    if (function["name"] != r.tool_name) continue;
    if (!r.options.stop.empty()) throw ApiError(400, "'stop' would cut the arguments of a strict function", "stop");
    const bool has_parameters = function.contains("parameters") && function["parameters"].is_object();
    const Json none = {{"type", "object"}, {"properties", Json::object()}, {"additionalProperties", false}};
    r.options.response_format = {{"type", "json_schema"},
                                 {"json_schema", {{"schema", has_parameters ? function["parameters"] : none}}}};
    r.tool_strict = true;
  }
}

void parse_tools(ApiFields& f, ChatRequest& r) {
  std::set<std::string> names;
  if (const Json* tools = f.array("tools"); tools && !tools->empty()) {
    r.tools = Json::array();
    for (size_t i = 0; i < tools->size(); ++i) {
      ApiFields tool((*tools)[i], at("tools", i));
      if (tool.string("type").value_or("") != "function") tool.refuse("type", "must be \"function\"");
      const Json* function = tool.object("function");
      if (!function) tool.refuse("function", "is missing");
      ApiFields fields(*function, at("tools", i) + ".function");
      const auto name = fields.string("name");
      if (!name || name->empty() || name->size() > 64) fields.refuse("name", "must have 1 to 64 characters");
      for (const char c : *name)
        if (!(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && c != '_' && c != '-')
          fields.refuse("name", "may hold letters, digits, _ and - alone");
      if (!names.insert(*name).second) fields.refuse("name", "is there twice");
      fields.string("description");
      fields.object("parameters");
      fields.boolean("strict");
      fields.finish();
      tool.finish();
      r.tools.push_back((*tools)[i]);
    }
  }
  if (f.boolean("parallel_tool_calls") == false) f.refuse("parallel_tool_calls", "false is not supported");
  const Json* choice = f.any("tool_choice");
  if (!choice) return;
  if (r.tools.is_null()) f.refuse("tool_choice", "needs 'tools'");
  if (*choice == "none") {
    r.tools = nullptr;
  } else if (*choice == "required") {
    r.tool_required = true;
    if (names.size() == 1) r.tool_name = *names.begin();
  } else if (choice->is_object()) {
    ApiFields c(*choice, "tool_choice");
    const Json* function = c.string("type").value_or("") == "function" ? c.object("function") : nullptr;
    if (!function) c.refuse("function", "is missing");
    ApiFields named(*function, "tool_choice.function");
    r.tool_name = named.string("name").value_or("");
    if (!names.contains(r.tool_name)) named.refuse("name", "is none of 'tools'");
    named.finish();
    c.finish();
    r.tool_required = true;
  } else if (*choice != "auto") {
    f.refuse("tool_choice", "must be \"none\", \"auto\", \"required\" or a function");
  }
}

std::vector<int32_t> tokens_of(const Json& list, const std::string& param) {
  std::vector<int32_t> tokens;
  for (const Json& t : list) tokens.push_back(token_of(t, param, INT32_MAX));
  if (tokens.empty()) throw ApiError(400, fmt::format("'{}' is empty", param), param);
  return tokens;
}

void parse_prompts(ApiFields& f, CompletionRequest& r) {
  const Json* prompt = f.any("prompt");
  if (!prompt) f.refuse("prompt", "is missing");
  if (prompt->is_string()) {
    r.prompts.emplace_back(prompt->get<std::string>());
  } else if (prompt->is_array() && !prompt->empty() && prompt->front().is_number()) {
    r.prompts.emplace_back(tokens_of(*prompt, "prompt"));
  } else if (prompt->is_array() && !prompt->empty()) {
    for (size_t i = 0; i < prompt->size(); ++i) {
      const Json& p = (*prompt)[i];
      if (p.is_string())
        r.prompts.emplace_back(p.get<std::string>());
      else if (p.is_array())
        r.prompts.emplace_back(tokens_of(p, at("prompt", i)));
      else
        f.refuse("prompt", "must be a string, a list of strings, a list of tokens, or a list of lists of tokens");
    }
  } else {
    f.refuse("prompt", "must be a string, a list of strings, a list of tokens, or a list of lists of tokens");
  }
}

}  // namespace

ChatRequest parse_chat_completion(const Json& body) {
  ApiFields f(body);
  ChatRequest r;
  r.options = parse_options(f);
  const auto old = f.integer("max_tokens", 1, kMostTokens), now = f.integer("max_completion_tokens", 1, kMostTokens);
  if (old && now && *old != *now) f.refuse("max_tokens", "and 'max_completion_tokens' differ: give one");
  r.options.max_tokens = now ? now : old;
  const bool logprobs = f.boolean("logprobs").value_or(false);
  const auto top = f.integer("top_logprobs", 0, kMostTopLogprobs);
  if (top && !logprobs) f.refuse("top_logprobs", "needs \"logprobs\": true");
  r.options.logprobs = logprobs ? top.value_or(0) : -1;
  const Json* messages = f.array("messages");
  if (!messages || messages->empty()) f.refuse("messages", "must hold at least one message");
  r.messages = Json::array();
  for (size_t i = 0; i < messages->size(); ++i) r.messages.push_back(parse_message((*messages)[i], at("messages", i)));
  parse_tools(f, r);
  f.finish();
  if (r.tool_required && !r.options.response_format.is_null())
    f.refuse("response_format",
             "does not go with a 'tool_choice' that makes the model call: the arguments' schema is the function's");
  apply_strict(r);
  return r;
}

CompletionRequest parse_completion(const Json& body) {
  ApiFields f(body);
  CompletionRequest r;
  r.options = parse_options(f);
  r.options.max_tokens = f.integer("max_tokens", 0, kMostTokens).value_or(16);  // OpenAI's default
  r.options.logprobs = f.integer("logprobs", 0, kMostTopLogprobs).value_or(-1);
  parse_prompts(f, r);
  r.suffix = f.string("suffix");
  r.echo = f.boolean("echo").value_or(false);
  if (r.echo && r.suffix) f.refuse("echo", "and 'suffix' do not go together");
  f.finish();
  if (static_cast<int64_t>(r.prompts.size()) * r.options.n > kMostChoices)
    f.refuse("n", fmt::format("times prompts may be at most {}", kMostChoices));
  return r;
}

}  // namespace rorqual
