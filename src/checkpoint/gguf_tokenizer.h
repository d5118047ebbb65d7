// A tokenizer as GGUF metadata.
#pragma once

#include <filesystem>

#include "data/tokenizer.h"
#include "tensor/gguf.h"

namespace rorqual {

// Appends the keys tokenizer.*: tokens, their kinds, merges, special ids, whether a BOS is put before a text, and the chat
// templates (of tokenizer_config.json or chat_template.jinja in `directory`). Ids from the tokenizer's size to vocab_size get
// tokens that no text has.
void add_tokenizer(const Tokenizer& tokenizer, const std::filesystem::path& directory, int64_t vocab_size,
                   GgufMetadata& metadata);

}  // namespace rorqual
