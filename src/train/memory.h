// What a training run needs of memory, by class, before anything is allocated: a dry run of the same code over arenas that only
// count.
#pragma once

#include <string>

#include "tensor/arena.h"
#include "train/recipe.h"

namespace rorqual {

struct MemoryNeed {
  std::array<int64_t, kMemoryClasses> bytes{};  // the most ever held of each class
  int64_t total() const;
};

// The recipe must be complete and valid.
MemoryNeed training_memory(const Recipe& recipe);

// Error (runtime): the run needs more than there is. Says how much, and what to change.
void check_memory(const MemoryNeed& need, int64_t available);

// The table of classes, a line each, and the total beside what is available.
std::string memory_table(const MemoryNeed& need, int64_t available);

}  // namespace rorqual
