// What filters, tests, methods and functions share.
#include "jinja/builtins.h"

#include <algorithm>

namespace rorqual::jinja {

Parameters::Parameters(const Arguments& arguments, std::string_view function, std::initializer_list<std::string_view> names,
                       size_t required)
    : function_(function), values_(names.size(), nullptr) {
  if (arguments.positional.size() > names.size())
    refuse("{} takes {} arguments at most, not {}", function, names.size(), arguments.positional.size());
  for (size_t i = 0; i < arguments.positional.size(); ++i) values_[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) refuse("{} has no argument '{}'", function, shortened(name));
    const Value*& place = values_[static_cast<size_t>(found - names.begin())];
    if (place != nullptr) refuse("{} gets its argument '{}' twice", function, name);
    place = &value;
  }
  for (size_t i = 0; i < required; ++i)
    if (values_[i] == nullptr) refuse("{} needs the argument '{}'", function, *(names.begin() + i));
}

std::string Parameters::text(size_t index, std::string_view otherwise) const {
  if (!given(index)) return std::string(otherwise);
  if (!values_[index]->is_text()) refuse("{} needs text, not a {}", function_, values_[index]->type_name());
  return values_[index]->text();
}

int64_t Parameters::integer(size_t index, int64_t otherwise) const {
  if (!given(index)) return otherwise;
  if (!values_[index]->is_integral()) refuse("{} needs an integer, not a {}", function_, values_[index]->type_name());
  return values_[index]->integer();
}

bool Parameters::flag(size_t index, bool otherwise) const {
  return values_[index] == nullptr ? otherwise : values_[index]->truthy();
}

SequencePtr items_of(const Value& value, Session& session) {
  if (value.is_sequence()) return value.sequence();
  Items items;
  if (value.is_text()) {
    const std::string& text = value.text();
    const std::vector<size_t> starts = character_starts(text);
    session.budget.charge_elements(starts.size());
    for (size_t i = 0; i + 1 < starts.size(); ++i)
      items.push_back(Value::text(std::string_view(text).substr(starts[i], starts[i + 1] - starts[i])));
  } else if (value.is_dict()) {
    session.budget.charge_elements(value.dict().entries().size());
    for (const auto& entry : value.dict().entries()) items.push_back(entry.first);
  } else if (!value.is_undefined()) {
    refuse("a {} cannot be iterated", value.type_name());
  }
  return Value::list(std::move(items)).sequence();
}

std::string text_of(const Value& value, Session& session) {
  std::string text;
  append_text(value, text, session.budget);
  return text;
}

}  // namespace rorqual::jinja
