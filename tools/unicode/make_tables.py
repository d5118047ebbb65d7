#!/usr/bin/env python3
"""Writes src/data/unicode_tables.cc: the character classes of the pre-tokenizer.

    python3 tools/unicode/make_tables.py > src/data/unicode_tables.cc

The Unicode version is the one of the `unicodedata2` package where it is installed (version 16.0.0 is what the Rust
`tokenizers` library's regex engine has, and what is committed), else that of Python's own unicodedata.
"""
try:
    import unicodedata2 as unicodedata
except ImportError:
    import unicodedata

# White_Space of the Unicode Character Database (PropList.txt); unicodedata does not have the property.
WHITE_SPACE = {*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}
NAMES = {"L": "kLetterMark", "M": "kLetterMark", "N": "kNumber", "P": "kPunctuationSymbol", "S": "kPunctuationSymbol"}


def char_class(code):
    if code in WHITE_SPACE:
        return "kNewline" if code in (0x0A, 0x0D) else "kSpace"
    # The second split of DeepSeek-V3's pre-tokenizer, [一-龥぀-ゟ゠-ヿ]; it holds no character of class N.
    if 0x4E00 <= code <= 0x9FA5 or 0x3040 <= code <= 0x30FF:
        return "kCjk"
    return NAMES.get(unicodedata.category(chr(code))[0], "kOther")


def main():
    ranges = []
    for code in range(0x110000):
        kind = char_class(code)
        if ranges and ranges[-1][2] == kind:
            ranges[-1][1] = code
        else:
            ranges.append([code, code, kind])
    ranges = [r for r in ranges if r[2] != "kOther"]
    print("// Written by tools/unicode/make_tables.py from Unicode %s; do not edit." % unicodedata.unidata_version)
    print('#include "data/unicode.h"\n\nnamespace rorqual {\n')
    print('const std::string_view kUnicodeVersion = "%s";\n' % unicodedata.unidata_version)
    print("namespace {\n\nusing enum CharClass;\n\n// clang-format off\nconstexpr CharRange kRanges[] = {")
    line = ""
    for first, last, kind in ranges:
        item = "{0x%X, 0x%X, %s}," % (first, last, kind)
        if len(line) + len(item) + 1 > 125:
            print("   " + line)
            line = ""
        line += " " + item
    print("   " + line)
    print("};\n// clang-format on\n\n}  // namespace\n")
    print("std::span<const CharRange> unicode_ranges() {\n  return kRanges;\n}\n\n}  // namespace rorqual")


main()
