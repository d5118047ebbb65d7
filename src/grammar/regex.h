// Regular expressions for constrained output: what a whole text must look like.
#pragma once

#include <string_view>

#include "grammar/expression.h"

namespace rorqual {

// Characters; . (any but a line feed); [a-z], [^…]; \d \D \w \W \s \S (ASCII); \t \n \r \f \v \0 \xHH \uHHHH and any escaped
// sign; ( ), (?: ), |; * + ? {m} {m,} {m,n} (greedy or lazy: the language is the same). ^ at the very beginning and $ at the
// very end say what holds anyway. Errors (usage), with the column: anything else (look-around, back-references, \b, named
// groups, flags), nesting deeper than 64, counts above 10,000, not UTF-8.
Expression parse_regex(std::string_view pattern);

}  // namespace rorqual
