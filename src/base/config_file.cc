#include "base/config_file.h"

#include <toml++/toml.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "base/edit_distance.h"
#include "base/error.h"

namespace rorqual {
namespace {

std::string type_name(const int64_t&) {
  return "integer";
}
std::string type_name(const double&) {
  return "number";
}
std::string type_name(const bool&) {
  return "boolean";
}
std::string type_name(const std::string&) {
  return "string";
}
std::string type_name(const std::vector<std::string>&) {
  return "list of strings";
}
std::string type_of(const ConfigKey& key) {
  return std::visit([](const auto* value) { return type_name(*value); }, key.value);
}
std::string type_with_article(const ConfigKey& key) {
  const std::string name = type_of(key);
  return (name == "integer" ? "an " : "a ") + name;
}

std::string print_value(int64_t v) {
  return fmt::format("{}", v);
}
std::string print_value(bool v) {
  return v ? "true" : "false";
}
std::string print_value(double v) {
  // The shortest digits that read back as v; TOML wants a point or an exponent.
  const std::string text = fmt::format("{}", v);
  return text.find_first_of(".en") == std::string::npos ? text + ".0" : text;
}
std::string print_value(const std::string& v) {
  std::ostringstream out;
  out << toml::value<std::string>(v);
  return out.str();
}
std::string print_value(const std::vector<std::string>& v) {
  std::string out = "[";
  for (size_t i = 0; i < v.size(); ++i) out += (i ? ", " : "") + print_value(v[i]);
  return out + "]";
}

bool assign(const toml::node& node, int64_t& value) {
  if (!node.is_integer()) return false;
  value = *node.value<int64_t>();
  return true;
}
bool assign(const toml::node& node, double& value) {
  if (!node.is_number() || !std::isfinite(*node.value<double>())) return false;
  value = *node.value<double>();
  return true;
}
bool assign(const toml::node& node, bool& value) {
  if (!node.is_boolean()) return false;
  value = *node.value<bool>();
  return true;
}
bool assign(const toml::node& node, std::string& value) {
  if (!node.is_string()) return false;
  value = *node.value<std::string>();
  return true;
}
bool assign(const toml::node& node, std::vector<std::string>& value) {
  if (!node.is_array()) return false;
  std::vector<std::string> items;
  for (const toml::node& item : *node.as_array()) {
    std::string text;
    if (!assign(item, text)) return false;
    items.push_back(text);
  }
  value = std::move(items);
  return true;
}

void set_key(const ConfigKeys& keys, const std::string& name, const toml::node& node, const std::string& where,
             std::string_view help) {
  const auto known = std::find_if(keys.begin(), keys.end(), [&](const ConfigKey& k) { return k.name == name; });
  if (known == keys.end()) {
    const auto nearest = std::min_element(keys.begin(), keys.end(), [&](const ConfigKey& a, const ConfigKey& b) {
      return edit_distance(name, a.name) < edit_distance(name, b.name);
    });
    CHECK(nearest != keys.end());
    fail_usage("{}: unknown key '{}'; did you mean '{}'? {}", where, name, nearest->name, help);
  }
  if (!std::visit([&](auto* value) { return assign(node, *value); }, known->value))
    fail_usage("{}: key '{}' takes {}", where, name, type_with_article(*known));
}

void set_table(const ConfigKeys& keys, const toml::table& table, const std::string& prefix, const std::string& where,
               std::string_view help) {
  for (const auto& [name, node] : table) {
    const std::string key = prefix + std::string(name.str());
    if (const toml::table* inner = node.as_table()) {
      set_table(keys, *inner, key + ".", where, help);
    } else {
      set_key(keys, key, node, fmt::format("{}:{}", where, node.source().begin.line), help);
    }
  }
}

}  // namespace

void read_config(std::string_view text, const std::string& where, const ConfigKeys& keys, std::string_view help) {
  try {
    set_table(keys, toml::parse(text, where), "", where, help);
  } catch (const toml::parse_error& e) {
    fail_usage("{}:{}: not valid TOML: {}", where, e.source().begin.line, e.description());
  }
}

void set_config(const std::string& assignment, const ConfigKeys& keys, std::string_view help) {
  const size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0) fail_usage("--set {}: write key=value", assignment);
  const std::string key = assignment.substr(0, equals), value = assignment.substr(equals + 1);
  toml::table table;
  try {
    table = toml::parse("value = " + value);
  } catch (const toml::parse_error&) {
    table.insert_or_assign("value", value);
  }
  set_key(keys, key, *table.get("value"), "--set " + assignment, help);
}

std::string print_config_value(const ConfigKey& key) {
  return std::visit([](const auto* value) { return print_value(*value); }, key.value);
}

std::string print_config(const ConfigKeys& keys) {
  std::string out, table;
  for (const ConfigKey& key : keys) {
    // A table within a table lies between keys of the outer one (model.rope_scaling): dotted keys keep the order.
    const size_t dot = key.name.find('.');
    const std::string top = dot == std::string::npos ? "" : key.name.substr(0, dot);
    if (top != table) {
      table = top;
      out += fmt::format("\n[{}]\n", table);
    }
    out += fmt::format("{} = {}\n", table.empty() ? key.name : key.name.substr(table.size() + 1), print_config_value(key));
  }
  return out;
}

std::string describe_config(const ConfigKeys& keys) {
  std::string out;
  for (const ConfigKey& key : keys)
    out += fmt::format("{:<52} {:<16} {:<12} {}\n", key.name, type_of(key), print_config_value(key), key.meaning);
  return out;
}

std::vector<std::filesystem::path> config_folders(const std::string& name) {
  std::error_code ignored;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
  std::vector<std::filesystem::path> folders;
  for (const char* relative : {".", "..", "../..", "../share/rorqual"}) {
    const std::filesystem::path folder = (program / relative / name).lexically_normal();
    if (std::filesystem::is_directory(folder, ignored)) folders.push_back(folder);
  }
  return folders;
}

std::filesystem::path find_config(const std::string& kind, const std::string& folder, const std::string& name) {
  std::error_code ignored;
  if (name.ends_with(".toml") || name.find('/') != std::string::npos) {
    if (!std::filesystem::is_regular_file(name, ignored)) fail_usage("{} {}: no such file", kind, name);
    return name;
  }
  std::string known;
  for (const auto& path : config_folders(folder)) {
    if (std::filesystem::is_regular_file(path / (name + ".toml"), ignored)) return path / (name + ".toml");
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path, ignored))
      if (entry.path().extension() == ".toml") names.push_back(entry.path().stem());
    std::sort(names.begin(), names.end());
    for (const auto& n : names) known += (known.empty() ? "" : ", ") + n;
  }
  fail_usage("there is no {} '{}'; known: {}; or give a .toml file", kind, name, known.empty() ? "none" : known);
}

}  // namespace rorqual
