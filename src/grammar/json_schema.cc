#include "grammar/json_schema.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"
#include "grammar/regex.h"

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMostDigits = 16, kMostExponentDigits = 2, kMostIndent = 20, kMostLength = 100'000;

Expression one_of(std::string_view signs) {
  std::vector<CharacterRange> ranges;
  for (const char c : signs) ranges.push_back({static_cast<char32_t>(c), static_cast<char32_t>(c)});
  return characters(std::move(ranges));
}
Expression digits(int64_t least, int64_t most) {
  return repeat(characters({{'0', '9'}}), least, most);
}
Expression space() {
  return choice({sequence({}), literal(" "), sequence({literal("\n"), repeat(literal(" "), 0, kMostIndent)})});
}

Expression integer() {
  return sequence(
      {optional(literal("-")), choice({literal("0"), sequence({characters({{'1', '9'}}), digits(0, kMostDigits - 1)})})});
}
Expression number() {
  return sequence({integer(), optional(sequence({literal("."), digits(1, kMostDigits)})),
                   optional(sequence({one_of("eE"), optional(one_of("+-")), digits(1, kMostExponentDigits)}))});
}

// \u and four hexadecimal digits that are no surrogate: what needs two of them is written as it is.
Expression unicode_escape() {
  const Expression hex = characters({{'0', '9'}, {'A', 'F'}, {'a', 'f'}});
  const Expression not_d = characters({{'0', '9'}, {'A', 'C'}, {'E', 'F'}, {'a', 'c'}, {'e', 'f'}});
  return sequence(
      {literal("\\u"), choice({sequence({not_d, hex}), sequence({one_of("dD"), characters({{'0', '7'}})})}), hex, hex});
}
// One character of a string as JSON writes it.
Expression any_character() {
  return choice({characters(complement({{0, 0x1f}, {'"', '"'}, {'\\', '\\'}})), sequence({literal("\\"), one_of("\"\\/bfnrt")}),
                 unicode_escape()});
}
Expression quoted(Expression inside) {
  return sequence({literal("\""), std::move(inside), literal("\"")});
}

// The same language with every character as JSON writes it inside a string.
Expression escaped(const Expression& x) {
  if (x.kind != Expression::Kind::kCharacters) {
    Expression out = x;
    for (Expression& child : out.children) child = escaped(child);
    return out;
  }
  std::vector<Expression> options;
  std::vector<CharacterRange> excluded = complement(x.characters), plain = {{0, 0x1f}, {'"', '"'}, {'\\', '\\'}};
  plain.insert(plain.end(), excluded.begin(), excluded.end());
  options.push_back(characters(complement(std::move(plain))));
  for (const CharacterRange& r : normalised(x.characters)) {
    for (char32_t c = r.first; c <= std::min<char32_t>(r.last, '\\'); ++c)
      if (c < 0x20 || c == '"' || c == '\\') {
        const std::string text = Json(std::string(1, static_cast<char>(c))).dump();
        options.push_back(literal(text.substr(1, text.size() - 2)));
      }
  }
  return choice(std::move(options));
}

class SchemaCompiler {
 public:
  explicit SchemaCompiler(const Json& root) : root_(root) {}

  Grammar compile() {
    rules_.emplace_back();
    rules_[0] = schema(root_, "#");
    return make_grammar(rules_);
  }

  Expression any_object() {
    const Expression member =
        sequence({quoted(repeat(any_character(), 0, kUnbounded)), space(), literal(":"), space(), any_value()});
    return list("{", member, 0, kUnbounded, "}");
  }
  Grammar compile_object() {
    rules_.emplace_back();
    rules_[0] = any_object();
    return make_grammar(rules_);
  }

 private:
  template <class... Args>
  [[noreturn]] static void refuse(const std::string& place, fmt::format_string<Args...> format, Args&&... args) {
    fail_usage("JSON schema, {}: {}", place, fmt::format(format, std::forward<Args>(args)...));
  }

  // begin item, item, … end
  static Expression list(const char* begin, const Expression& item, int64_t least, int64_t most, const char* end) {
    const Expression more = sequence({space(), literal(","), space(), item});
    Expression items = sequence({item, repeat(more, std::max<int64_t>(least - 1, 0), most == kUnbounded ? most : most - 1)});
    if (most == 0)
      items = sequence({});
    else if (least == 0)
      items = optional(std::move(items));
    return sequence({literal(begin), space(), std::move(items), space(), literal(end)});
  }

  Expression any_value() {
    if (any_rule_ < 0) {
      any_rule_ = static_cast<int32_t>(rules_.size());
      rules_.emplace_back();
      Expression value =
          choice({any_object(), list("[", call(any_rule_), 0, kUnbounded, "]"), quoted(repeat(any_character(), 0, kUnbounded)),
                  number(), literal("true"), literal("false"), literal("null")});
      rules_[static_cast<size_t>(any_rule_)] = std::move(value);
    }
    return call(any_rule_);
  }

  static int64_t count(const Json& s, const char* key, int64_t otherwise, const std::string& place) {
    if (!s.contains(key)) return otherwise;
    const Json& n = s[key];
    if (!n.is_number_integer() || n < 0 || n > kMostLength)
      refuse(place, "{} must be an integer from 0 to {}", key, kMostLength);
    return n.get<int64_t>();
  }

  static void check_keywords(const Json& s, const std::string& place) {
    static const std::set<std::string, std::less<>> known = {"type",
                                                             "enum",
                                                             "const",
                                                             "anyOf",
                                                             "allOf",
                                                             "$ref",
                                                             "$defs",
                                                             "definitions",
                                                             "properties",
                                                             "required",
                                                             "additionalProperties",
                                                             "items",
                                                             "prefixItems",
                                                             "minItems",
                                                             "maxItems",
                                                             "minLength",
                                                             "maxLength",
                                                             "pattern",
                                                             "title",
                                                             "description",
                                                             "default",
                                                             "examples",
                                                             "deprecated",
                                                             "readOnly",
                                                             "writeOnly",
                                                             "$comment",
                                                             "$schema",
                                                             "$id"};
    for (const auto& [key, value] : s.items())
      if (!known.contains(key)) refuse(place, "the keyword '{}' is not supported", key);
  }
  // Keywords that say something of the value beside the one that was chosen would be lost.
  static void check_alone(const Json& s, const char* chosen, const std::string& place) {
    static const std::set<std::string, std::less<>> beside = {
        "type",     "enum",       "const",    "anyOf",       "allOf",
        "$ref",     "properties", "items",    "prefixItems", "additionalProperties",
        "required", "minItems",   "maxItems", "minLength",   "maxLength",
        "pattern"};
    for (const auto& [key, value] : s.items())
      if (key != chosen && beside.contains(key)) refuse(place, "'{}' beside '{}' is not supported", key, chosen);
  }

  Expression schema(const Json& s, const std::string& place) {
    if (++depth_ > 100) refuse(place, "schemas are nested too deep");
    Expression out = schema_at(s, place);
    --depth_;
    return out;
  }

  Expression schema_at(const Json& s, const std::string& place) {
    if (s.is_boolean() && s.get<bool>()) return any_value();
    if (!s.is_object()) refuse(place, "a schema is an object or true");
    check_keywords(s, place);
    if (s.contains("$ref")) return check_alone(s, "$ref", place), reference(s["$ref"], place);
    if (s.contains("const")) return constants(Json::array({s["const"]}), s, place);
    if (s.contains("enum")) return constants(s["enum"], s, place);
    if (s.contains("anyOf")) return check_alone(s, "anyOf", place), any_of(s["anyOf"], place + "/anyOf");
    if (s.contains("allOf")) {
      check_alone(s, "allOf", place);
      if (!s["allOf"].is_array() || s["allOf"].size() != 1) refuse(place, "allOf is supported with one schema alone");
      return schema(s["allOf"][0], place + "/allOf/0");
    }
    if (!s.contains("type")) {
      if (s.contains("properties") || s.contains("required") || s.contains("additionalProperties")) return object(s, place);
      if (s.contains("items") || s.contains("prefixItems") || s.contains("minItems") || s.contains("maxItems"))
        return array(s, place);
      if (s.contains("pattern") || s.contains("minLength") || s.contains("maxLength")) return string(s, place);
      return any_value();
    }
    const Json& type = s["type"];
    if (type.is_string()) return typed(type, s, place);
    if (!type.is_array() || type.empty()) refuse(place, "type must be a name or a list of names");
    std::vector<Expression> options;
    for (const Json& t : type) options.push_back(typed(t, s, place));
    return choice(std::move(options));
  }

  Expression typed(const Json& type, const Json& s, const std::string& place) {
    if (!type.is_string()) refuse(place, "type must be a name or a list of names");
    const auto name = type.get<std::string>();
    if (name == "object") return object(s, place);
    if (name == "array") return array(s, place);
    if (name == "string") return string(s, place);
    if (name == "number") return number();
    if (name == "integer") return integer();
    if (name == "boolean") return choice({literal("true"), literal("false")});
    if (name == "null") return literal("null");
    refuse(place, "there is no type '{}'", name);
  }

  static bool is_of_type(const Json& value, const std::string& type) {
    if (type == "integer") return value.is_number_integer();
    if (type == "number") return value.is_number();
    return type == value.type_name();
  }

  Expression constants(const Json& values, const Json& s, const std::string& place) {
    check_alone_but_type(s, place);
    if (!values.is_array() || values.empty()) refuse(place, "enum must be a list that is not empty");
    std::vector<Expression> options;
    for (const Json& value : values) {
      const auto fits = [&](const Json& type) { return type.is_string() && is_of_type(value, type.get<std::string>()); };
      if (s.contains("type")) {
        const Json& type = s["type"];
        if (!(type.is_array() ? std::any_of(type.begin(), type.end(), fits) : fits(type))) continue;
      }
      options.push_back(literal(value.dump()));
    }
    if (options.empty()) refuse(place, "no value is of the type");
    return choice(std::move(options));
  }
  static void check_alone_but_type(const Json& s, const std::string& place) {
    Json rest = s;
    rest.erase("type");
    check_alone(rest, s.contains("const") ? "const" : "enum", place);
  }

  Expression any_of(const Json& list, const std::string& place) {
    if (!list.is_array() || list.empty()) refuse(place, "anyOf must be a list that is not empty");
    std::vector<Expression> options;
    for (size_t i = 0; i < list.size(); ++i) options.push_back(schema(list[i], fmt::format("{}/{}", place, i)));
    return choice(std::move(options));
  }

  Expression reference(const Json& ref, const std::string& place) {
    if (!ref.is_string() || !ref.get<std::string>().starts_with('#'))
      refuse(place, "$ref must lead into this document ('#/…')");
    const auto name = ref.get<std::string>();
    const auto [known, is_new] = rule_of_.try_emplace(name, static_cast<int32_t>(rules_.size()));
    const int32_t rule = known->second;
    if (!is_new) return call(rule);
    rules_.emplace_back();
    const Json* target = nullptr;
    try {
      target = &root_.at(Json::json_pointer(name.substr(1)));
    } catch (const nlohmann::json::exception&) {
      refuse(place, "$ref '{}' leads nowhere", name);
    }
    Expression x = schema(*target, name);
    rules_[static_cast<size_t>(rule)] = std::move(x);
    return call(rule);
  }

  Expression string(const Json& s, const std::string& place) {
    const int64_t least = count(s, "minLength", 0, place), most = count(s, "maxLength", kUnbounded, place);
    if (most != kUnbounded && most < least) refuse(place, "maxLength is below minLength");
    if (!s.contains("pattern")) return quoted(repeat(any_character(), least, most));
    if (s.contains("minLength") || s.contains("maxLength")) refuse(place, "pattern beside a length is not supported");
    if (!s["pattern"].is_string()) refuse(place, "pattern must be a text");
    const auto pattern = s["pattern"].get<std::string>();
    if (!pattern.starts_with('^') || !pattern.ends_with('$') || pattern.ends_with("\\$"))
      refuse(place, "pattern must be anchored: ^…$");
    return quoted(escaped(parse_regex(pattern)));
  }

  Expression array(const Json& s, const std::string& place) {
    int64_t least = count(s, "minItems", 0, place);
    const int64_t most = count(s, "maxItems", kUnbounded, place);
    if (most != kUnbounded && most < least) refuse(place, "maxItems is below minItems");
    const bool more = !s.contains("items") || s["items"] != false;
    const Expression item = !more ? sequence({}) : s.contains("items") ? schema(s["items"], place + "/items") : any_value();
    if (!s.contains("prefixItems")) return more ? list("[", item, least, most, "]") : list("[", item, 0, 0, "]");
    const Json& prefix = s["prefixItems"];
    if (!prefix.is_array() || prefix.empty()) refuse(place, "prefixItems must be a list that is not empty");
    const auto fixed = static_cast<int64_t>(prefix.size());
    if ((least != 0 && least != fixed) || (most != kUnbounded && most != fixed) || (more && s.contains("items")))
      refuse(place, "prefixItems is supported for lists of just those items");
    std::vector<Expression> parts = {literal("["), space()};
    for (size_t i = 0; i < prefix.size(); ++i) {
      if (i > 0) parts.insert(parts.end(), {space(), literal(","), space()});
      parts.push_back(schema(prefix[i], fmt::format("{}/prefixItems/{}", place, i)));
    }
    parts.insert(parts.end(), {space(), literal("]")});
    return sequence(std::move(parts));
  }

  std::set<std::string> required_members(const Json& s, const std::string& place) const {
    std::set<std::string> required;
    if (!s.contains("required")) return required;
    if (!s["required"].is_array()) refuse(place, "required must be a list of names");
    for (const Json& name : s["required"]) {
      if (!name.is_string()) refuse(place, "required must be a list of names");
      if (!s.contains("properties") || !s["properties"].contains(name.get<std::string>()))
        refuse(place, "the required member '{}' is not declared under properties", name.get<std::string>());
      required.insert(name.get<std::string>());
    }
    return required;
  }

  Expression object(const Json& s, const std::string& place) {
    const std::set<std::string> required = required_members(s, place);
    const Json none = Json::object();
    const Json& properties = s.contains("properties") ? s["properties"] : none;
    if (!properties.is_object()) refuse(place, "properties must be an object");
    if (properties.empty()) {
      const Json& more = s.contains("additionalProperties") ? s["additionalProperties"] : Json(true);
      if (more == false) return sequence({literal("{"), space(), literal("}")});
      const Expression value = schema(more, place + "/additionalProperties");
      return list("{", sequence({quoted(repeat(any_character(), 0, kUnbounded)), space(), literal(":"), space(), value}), 0,
                  kUnbounded, "}");
    }
    return sequence({literal("{"), space(), members(properties, required, place), space(), literal("}")});
  }

  // Members in their order, the optional ones there or not. Rule (i, begun) is what may stand from member i on, with or
  // without one before it.
  Expression members(const Json& properties, const std::set<std::string>& required, const std::string& place) {
    const auto base = static_cast<int32_t>(rules_.size());
    const auto n = static_cast<int32_t>(properties.size());
    const auto rest = [&](int32_t i, bool begun) { return i == n ? sequence({}) : call(base + 2 * i + (begun ? 1 : 0)); };
    rules_.resize(rules_.size() + 2 * static_cast<size_t>(n));
    int32_t i = 0;
    for (const auto& [name, value] : properties.items()) {
      const Expression member = sequence({literal(Json(name).dump()), space(), literal(":"), space(),
                                          schema(value, fmt::format("{}/properties/{}", place, name))});
      for (const bool begun : {false, true}) {
        Expression with = begun ? sequence({space(), literal(","), space(), member, rest(i + 1, true)})
                                : sequence({member, rest(i + 1, true)});
        if (!required.contains(name)) with = choice({std::move(with), rest(i + 1, begun)});
        rules_[static_cast<size_t>(base) + 2 * static_cast<size_t>(i) + (begun ? 1 : 0)] = std::move(with);
      }
      ++i;
    }
    return rest(0, false);
  }

  const Json& root_;
  std::vector<Expression> rules_;
  std::map<std::string, int32_t> rule_of_;
  int32_t any_rule_ = -1;
  int depth_ = 0;
};

}  // namespace

Grammar json_schema_grammar(const nlohmann::ordered_json& schema) {
  return SchemaCompiler(schema).compile();
}

Grammar json_object_grammar() {
  const Json none = Json::object();
  return SchemaCompiler(none).compile_object();
}

}  // namespace rorqual
