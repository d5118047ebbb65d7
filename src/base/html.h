// What the program's self-contained pages are made with.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>

namespace rorqual {

// Text for an element or a quoted attribute; control characters become spaces.
std::string escape_html(std::string_view text);

// JSON text for a <script> element: nothing in it can end or confuse the element.
std::string json_for_script(std::string_view json);

// The template with each {{name}} replaced, in one pass: what is put in is not looked at again. A name without a value is a
// programmer's mistake.
std::string fill_template(std::string_view page, const std::map<std::string, std::string, std::less<>>& values);

}  // namespace rorqual
