// Reads Hugging Face's tokenizer.json and tokenizer_config.json.
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "data/pretokenizer.h"
#include "data/tokenizer_impl.h"
#include "data/unicode.h"

namespace rorqual {

namespace {

using nlohmann::json;

constexpr int kMaxDepth = 32;
constexpr std::string_view kSupported =
    "supported is DeepSeek-V3's: a Sequence of its three Split patterns and ByteLevel(add_prefix_space=false, use_regex=false)";

json parse_json(std::string_view text, const std::string& file) {
  try {
    return json::parse(text.begin(), text.end(), [&](int depth, json::parse_event_t, json&) {
      if (depth > kMaxDepth) fail("{}: JSON nested deeper than {} levels", file, kMaxDepth);
      return true;
    });
  } catch (const json::exception& error) {
    std::string_view what = error.what();
    if (const size_t bracket = what.find("] "); bracket != what.npos) what.remove_prefix(bracket + 2);
    fail("{}: not valid JSON: {}", file, what);
  }
}

// A value for a message: short.
std::string shown(const json& value) {
  std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() > 80) {
    text.resize(77);
    while (!text.empty() && (text.back() & 0x80) != 0) text.pop_back();
    text += "...";
  }
  return text;
}

const json& null_json() {
  static const json null;
  return null;
}

// The member, or null where it is absent.
const json& member(const json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() ? null_json() : *found;
}

const json& object_at(const json& object, const char* key, const std::string& where) {
  const json& value = member(object, key);
  if (!value.is_object()) fail("{}: \"{}\" is {}; an object is needed", where, key, shown(value));
  return value;
}

const json& array_at(const json& object, const char* key, const std::string& where) {
  const json& value = member(object, key);
  if (!value.is_array()) fail("{}: \"{}\" is {}; an array is needed", where, key, shown(value));
  return value;
}

std::string string_at(const json& object, const char* key, const std::string& where) {
  const json& value = member(object, key);
  if (!value.is_string()) fail("{}: \"{}\" is {}; a string is needed", where, key, shown(value));
  return value.get<std::string>();
}

// Absent is `absent`.
bool bool_at(const json& object, const char* key, bool absent, const std::string& where) {
  const json& value = member(object, key);
  if (value.is_null()) return absent;
  if (!value.is_boolean()) fail("{}: \"{}\" is {}; true or false is needed", where, key, shown(value));
  return value.get<bool>();
}

int32_t id_of_json(const json& value, size_t limit, const std::string& what) {
  if (!value.is_number_integer()) fail("{} has the id {}; an integer is needed", what, shown(value));
  const bool fits = value.is_number_unsigned() && value.get<uint64_t>() < limit;
  if (!fits)
    fail("{} has the id {}, out of range: with {} tokens in all, ids run from 0 to {}", what, shown(value), limit, limit - 1);
  return value.get<int32_t>();
}

void check_split(const json& split, std::string_view pattern, const std::string& where) {
  const json& regex = split.is_object() ? member(split, "pattern") : null_json();
  const json& text = regex.is_object() ? member(regex, "Regex") : null_json();
  const bool right = split.is_object() && member(split, "type") == "Split" && text.is_string() &&
                     text.get_ref<const std::string&>() == pattern && member(split, "behavior") == "Isolated" &&
                     member(split, "invert") == false;
  if (!right) fail("{} is {}; {}", where, shown(split), kSupported);
}

void check_pre_tokenizer(const json& root, const std::string& file) {
  const json& pre = member(root, "pre_tokenizer");
  const std::string where = file + ": pre_tokenizer";
  if (!pre.is_object() || member(pre, "type") != "Sequence") fail("{} is {}; {}", where, shown(pre), kSupported);
  const json& steps = array_at(pre, "pretokenizers", where);
  if (steps.size() != 4) fail("{} has {} steps; {}", where, steps.size(), kSupported);
  check_split(steps[0], kSplitNumber, where + " step 1");
  check_split(steps[1], kSplitCjk, where + " step 2");
  check_split(steps[2], kSplitWord, where + " step 3");
  const json& last = steps[3];
  if (!last.is_object() || member(last, "type") != "ByteLevel" || bool_at(last, "add_prefix_space", true, where) ||
      bool_at(last, "use_regex", true, where)) {
    fail("{} step 4 is {}; {}", where, shown(last), kSupported);
  }
}

void check_surroundings(const json& root, const std::string& file) {
  check_pre_tokenizer(root, file);
  const json& normalizer = member(root, "normalizer");
  const bool no_normalizer = normalizer.is_null() || (normalizer.is_object() && member(normalizer, "type") == "Sequence" &&
                                                      member(normalizer, "normalizers") == json::array());
  if (!no_normalizer) fail("{}: normalizer is {}; supported are null and an empty Sequence", file, shown(normalizer));
  const json& decoder = member(root, "decoder");
  if (!decoder.is_object() || member(decoder, "type") != "ByteLevel") {
    fail("{}: decoder is {}; supported is ByteLevel", file, shown(decoder));
  }
  for (const char* key : {"truncation", "padding"}) {
    if (!member(root, key).is_null()) warn("{}: \"{}\" is ignored: texts are always encoded whole", file, key);
  }
}

void check_model(const json& model, const std::string& where) {
  const json& type = member(model, "type");
  if (!type.is_null() && type != "BPE") fail("{}.type is {}; supported is \"BPE\"", where, shown(type));
  const json& dropout = member(model, "dropout");
  if (!dropout.is_null() && dropout != 0) fail("{}.dropout is {}; supported is null", where, shown(dropout));
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const json& value = member(model, key);
    if (!value.is_null() && value != "") fail("{}.{} is {}; supported is null", where, key, shown(value));
  }
  for (const char* key : {"byte_fallback", "ignore_merges"}) {
    if (bool_at(model, key, false, where)) fail("{}.{} is true; supported is false", where, key);
  }
}

class Reader {
 public:
  Reader(const json& root, std::string file) : root_(root), file_(std::move(file)) {}

  TokenizerParts read() {
    if (!root_.is_object()) fail("{}: an object is needed, not {}", file_, shown(root_));
    check_surroundings(root_, file_);
    const json& model = object_at(root_, "model", file_);
    check_model(model, file_ + ": model");
    vocab_ = &object_at(model, "vocab", file_ + ": model");
    read_added();
    read_vocab();
    read_merges(array_at(model, "merges", file_ + ": model"));
    const json& post = member(root_, "post_processor");
    if (!post.is_null() && !post.is_object()) fail("{}: post_processor is {}; an object is needed", file_, shown(post));
    parts_.post_processor = post.dump();
    return std::move(parts_);
  }

 private:
  void read_added() {
    const json& list = member(root_, "added_tokens").is_null() ? empty_list_ : array_at(root_, "added_tokens", file_);
    size_t total = vocab_->size();
    for (size_t i = 0; i < list.size(); ++i) {
      const std::string where = fmt::format("{}: added_tokens[{}]", file_, i);
      const json& item = list[i];
      if (!item.is_object()) fail("{} is {}; an object is needed", where, shown(item));
      AddedToken token;
      token.content = string_at(item, "content", where);
      if (token.content.empty()) fail("{} has an empty content", where);
      for (const char* key : {"single_word", "lstrip", "rstrip"}) {
        if (bool_at(item, key, false, where)) fail("{} (\"{}\") has {} = true; supported is false", where, token.content, key);
      }
      token.special = bool_at(item, "special", false, where);
      token.normalized = bool_at(item, "normalized", !token.special, where);
      if (!vocab_->contains(token.content)) ++total;
      if (!added_index_.emplace(token.content, parts_.added.size()).second) {
        fail("{} repeats the content \"{}\"", where, token.content);
      }
      parts_.added.push_back(std::move(token));
    }
    if (total == 0) fail("{}: the vocabulary is empty", file_);
    parts_.tokens.resize(total);
    parts_.places.assign(total, TokenPlace::kAddedOnly);
    taken_.assign(total, 0);
    for (size_t i = 0; i < list.size(); ++i) place_added(list[i], i);
    std::sort(parts_.added.begin(), parts_.added.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  }

  void place_added(const json& item, size_t i) {
    AddedToken& token = parts_.added[i];
    const std::string what = fmt::format("{}: added token \"{}\"", file_, token.content);
    token.id = id_of_json(member(item, "id"), parts_.tokens.size(), what);
    take(token.id, what);
    parts_.tokens[token.id] = token.content;
    const auto in_vocab = vocab_->find(token.content);
    if (in_vocab == vocab_->end()) return;
    if (*in_vocab != token.id) fail("{} has the id {}, but model.vocab gives it {}", what, token.id, shown(*in_vocab));
    const std::optional<std::string> bytes = from_byte_level(token.content);
    if (bytes && *bytes != token.content) {
      fail("{} is in model.vocab too, where its spelling means other bytes; give it another content", what);
    }
    parts_.places[token.id] = bytes ? TokenPlace::kModel : TokenPlace::kModelText;
  }

  void take(int32_t id, const std::string& what) {
    if (taken_[id] != 0) fail("{} has the id {}, which another token has already", what, id);
    taken_[id] = 1;
  }

  void read_vocab() {
    ids_.reserve(vocab_->size());
    for (const auto& [spelling, value] : vocab_->items()) {
      if (const auto added = added_index_.find(spelling); added != added_index_.end()) {
        const int32_t id = value.get<int32_t>();  // checked by place_added
        if (parts_.places[id] == TokenPlace::kModel) ids_.emplace(spelling, id);
        continue;
      }
      const std::string what = fmt::format("{}: model.vocab token \"{}\"", file_, spelling);
      const int32_t id = id_of_json(value, parts_.tokens.size(), what);
      take(id, what);
      std::optional<std::string> bytes = from_byte_level(spelling);
      if (!bytes || bytes->empty()) fail("{} is not spelled in the byte-level alphabet and is no added token", what);
      parts_.tokens[id] = std::move(*bytes);
      parts_.places[id] = TokenPlace::kModel;
      ids_.emplace(spelling, id);
    }
  }

  int32_t token_in_merge(const std::string& spelling, size_t index) const {
    const auto found = ids_.find(spelling);
    if (found == ids_.end())
      fail("{}: model.merges[{}] needs the token \"{}\", which model.vocab lacks", file_, index, spelling);
    return found->second;
  }

  void read_merges(const json& list) {
    parts_.merges.reserve(list.size());
    for (size_t i = 0; i < list.size(); ++i) {
      const json& item = list[i];
      std::string left, right;
      if (item.is_string()) {
        const auto& text = item.get_ref<const std::string&>();
        const size_t space = text.find(' ');
        if (space != text.npos) {
          left = text.substr(0, space);
          right = text.substr(space + 1);
        }
      } else if (item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string()) {
        left = item[0].get<std::string>();
        right = item[1].get<std::string>();
      }
      if (left.empty() || right.empty()) {
        fail("{}: model.merges[{}] is {}; \"LEFT RIGHT\" or [\"LEFT\", \"RIGHT\"] is needed", file_, i, shown(item));
      }
      parts_.merges.push_back({token_in_merge(left, i), token_in_merge(right, i), token_in_merge(left + right, i)});
    }
  }

  const json& root_;
  const std::string file_;
  const json empty_list_ = json::array();
  const json* vocab_ = nullptr;
  TokenizerParts parts_;
  std::unordered_map<std::string, size_t> added_index_;
  std::unordered_map<std::string, int32_t> ids_;  // byte-level spellings
  std::vector<uint8_t> taken_;
};

// The content of bos_token or eos_token: a string, or an object with "content". Absent: DeepSeek-V3's, if it is there.
std::string role_content(const json& config, const char* key, std::string_view usual, const TokenizerParts& parts,
                         const std::string& file) {
  if (!config.contains(key)) {
    const bool there =
        std::any_of(parts.added.begin(), parts.added.end(), [&](const AddedToken& t) { return t.content == usual; });
    return there ? std::string(usual) : std::string();
  }
  const json& value = config[key];
  if (value.is_null()) return {};
  const json& content = value.is_object() ? member(value, "content") : value;
  if (!content.is_string() || content == "")
    fail("{}: {} is {}; a string or an object with \"content\" is needed", file, key, shown(value));
  return content.get<std::string>();
}

}  // namespace

Tokenizer Tokenizer::parse(std::string_view tokenizer_json, std::string_view config_json, const std::string& name) {
  const std::string file = name + "/tokenizer.json", config_file = name + "/tokenizer_config.json";
  const json root = parse_json(tokenizer_json, file);
  const json config = config_json.empty() ? json::object() : parse_json(config_json, config_file);
  if (!config.is_object()) fail("{}: an object is needed, not {}", config_file, shown(config));
  try {
    TokenizerParts parts = Reader(root, file).read();
    parts.bos = role_content(config, "bos_token", kBeginOfSentence, parts, config_file);
    parts.eos = role_content(config, "eos_token", kEndOfSentence, parts, config_file);
    if (!config.empty()) parts.config = config.dump(2) + "\n";
    return make_tokenizer(std::move(parts), name);
  } catch (const json::exception& error) {
    fail("{}: {}", file, error.what());
  }
}

Tokenizer Tokenizer::load(const std::filesystem::path& dir) {
  const std::filesystem::path config = dir / "tokenizer_config.json";
  const std::string config_text = std::filesystem::exists(config) ? read_file(config) : std::string();
  return parse(read_file(dir / "tokenizer.json"), config_text, dir.string());
}

}  // namespace rorqual
