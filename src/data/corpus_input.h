// The bytes of a corpus file, decompressed as they are read.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "data/corpus.h"

namespace rorqual {

class CorpusInput {
 public:
  virtual ~CorpusInput() = default;
  // Fills up to `size` bytes; 0 only at the end. Error (runtime): unreadable, damaged, cut short; names the path.
  virtual size_t read(char* out, size_t size) = 0;
};

// gzip: members one after the other, CRC checked; zeros may pad the end. zstd: frames one after the other, checksums where
// present.
std::unique_ptr<CorpusInput> open_corpus_input(const CorpusFile& file);

std::string read_corpus_file(const CorpusFile& file);

}  // namespace rorqual
