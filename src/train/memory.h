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
  int64_t of(MemoryClass c) const { return bytes[static_cast<size_t>(c)]; }
  // What is kept from forward to backward, without logits and scratch.
  int64_t activations() const;
};

// The recipe must be complete and valid.
MemoryNeed training_memory(const Recipe& recipe);

// Error (runtime): the run needs more than there is. Says how much, and what to change.
void check_memory(const MemoryNeed& need, int64_t available);

// The table of classes, a line each, and the total beside what is available.
std::string memory_table(const MemoryNeed& need, int64_t available);
// What FP8's cache formats save: the kept classes beside those of the same recipe in BF16. Empty for other precisions.
std::string activation_savings(const Recipe& recipe, const MemoryNeed& need);

}  // namespace rorqual
