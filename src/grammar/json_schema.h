// JSON schemas for constrained output: grammars of JSON texts.
#pragma once

#include <nlohmann/json.hpp>

#include "grammar/grammar.h"

namespace rorqual {

// Every text of the grammar is a JSON text that the schema accepts; of those, it holds one spelling of each value: members in
// the schema's order, declared ones alone (any, where none is declared), names and constants as they stand; between signs at
// most one space, or a line feed and up to 20 spaces; numbers of at most 16 digits before and after the point and 2 in the
// exponent, so that every reader holds them.
//
// Keywords: type (one or a list), enum, const, anyOf, allOf (of one), $ref (into this document, recursive or not), $defs,
// definitions; properties, required, additionalProperties; items, prefixItems, minItems, maxItems; minLength, maxLength,
// pattern (anchored, ^…$). Annotations: title, description, default, examples, deprecated, readOnly, writeOnly, $comment,
// $schema, $id.
// Errors (usage), with the place: any other keyword, one with a wrong type, a required member that is not declared, a schema
// that nothing satisfies, a $ref that leads nowhere.
Grammar json_schema_grammar(const nlohmann::ordered_json& schema);

// Any JSON object.
Grammar json_object_grammar();

}  // namespace rorqual
