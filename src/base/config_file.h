// Configuration files: TOML in which every key is known. A list of keys reads a file, takes changes from the command line,
// prints a configuration and explains it; recipes (train/recipe.h) and clusters (plan/cluster.h) are such lists.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace rorqual {

struct ConfigKey {
  std::string name;  // tables with a dot: "train.steps"
  std::variant<int64_t*, double*, bool*, std::string*, std::vector<std::string>*> value;
  std::string meaning;
};
using ConfigKeys = std::vector<ConfigKey>;

// The keys of a struct by its visit function: visit(key, reference, meaning) for each.
template <class Config, class VisitKeys>
ConfigKeys config_keys(Config& config, VisitKeys&& visit_keys) {
  ConfigKeys keys;
  visit_keys(config, [&](const std::string& name, auto& value, const char* meaning) {
    keys.push_back({name, &value, meaning});
  });
  return keys;
}

// Sets what the TOML `text` says and leaves the other keys. `help` ends the message of an unknown key: where all are listed.
// Error (usage), which begins with `where` and a line: bad TOML, a wrong type, an unknown key with the nearest known one.
void read_config(std::string_view text, const std::string& where, const ConfigKeys& keys, std::string_view help);
// The same with one key, as "key=value"; a bare word is a string.
void set_config(const std::string& assignment, const ConfigKeys& keys, std::string_view help);

// As TOML; numbers read back to the same bits.
std::string print_config_value(const ConfigKey& key);
// In full, in the order of the list, the keys of a table together.
std::string print_config(const ConfigKeys& keys);
// A line for each: name, type, value, meaning.
std::string describe_config(const ConfigKeys& keys);

// Folders `name` ("recipes") that come with the program: beside it, in the source tree, in the install prefix.
std::vector<std::filesystem::path> config_folders(const std::string& name);
// The file named on the command line: a path, or a name in one of the folders. Error (usage) says what `kind` ("recipe") is
// missing and lists the names there are.
std::filesystem::path find_config(const std::string& kind, const std::string& folder, const std::string& name_or_path);

}  // namespace rorqual
