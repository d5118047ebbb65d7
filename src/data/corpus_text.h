// UTF-8 or not, and a way through JSON for text that is not.
#pragma once

#include <string>
#include <string_view>

namespace rorqual {

bool is_utf8(std::string_view text);

// A JSON parser takes UTF-8 alone. Each byte that is no part of it becomes a private code point, U+10FE00 + byte, and is
// turned back behind the parser. False if the text holds such a code point already.
bool escape_invalid_utf8(std::string_view text, std::string& out);
std::string unescape_invalid_utf8(std::string_view text);

}  // namespace rorqual
