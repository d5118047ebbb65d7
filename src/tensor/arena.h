// Memory by class: every byte a run holds is allocated from an arena under a class, and the memory table adds them up.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "tensor/tensor.h"

namespace rorqual {

enum class MemoryClass {
  kMasterWeights,
  kPackedWeights,
  kGradients,
  kMoments,
  kEma,
  kActivations,       // kept from forward to backward: residual stream, latents, routing, norms' inputs
  kLinearInputs,      // kept inputs of linear layers
  kAttentionOutputs,  // kept inputs of the output projection
  kSwiGluInputs,      // kept
  kScratch,
  kLogits,
  kCache,
  kData,
  kSnapshot
};
inline constexpr int kMemoryClasses = 14;
std::string_view memory_class_name(MemoryClass c);

// Bytes held now, and the most ever held, by class.
struct MemoryUse {
  std::array<int64_t, kMemoryClasses> now{}, peak{};
};

// Owns aligned blocks. Allocation is a bump within the arena; release(mark) gives back everything allocated after mark(), so
// that activations live like a stack. Blocks are kept for reuse until the arena dies. Memory is zeroed on first use only. Not
// thread-safe.
class Arena {
 public:
  enum class Kind {
    kReal,
    kMeasure,  // counts and hands out addresses that must not be touched: a dry run, to know what a real one needs
  };
  // `use` (may be null) outlives the arena and is updated by it.
  // `scratch`: activations in it are counted as scratch: they do not live from forward to backward.
  explicit Arena(MemoryUse* use = nullptr, Kind kind = Kind::kReal, bool scratch = false)
      : use_(use), kind_(kind), scratch_(scratch) {}
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // 64-byte aligned; a row starts at a multiple of its stride (cols). Out of memory is an Error that names the class and the
  // size.
  Tensor tensor(MemoryClass c, DType dtype, int64_t rows, int64_t cols);
  void* bytes(MemoryClass c, int64_t size);

  struct Mark {
    size_t entries = 0;
  };
  Mark mark() const { return {entries_.size()}; }
  void release(Mark mark);
  int64_t held() const { return held_; }

 private:
  struct Block {
    std::unique_ptr<std::byte, void (*)(std::byte*)> data;
    int64_t size = 0;
  };
  Block make_block(MemoryClass c, int64_t length) const;
  struct Entry {
    size_t block = 0;
    int64_t offset = 0, size = 0;
    MemoryClass c{};
  };
  std::vector<Block> blocks_;
  std::vector<Entry> entries_;
  int64_t held_ = 0;
  MemoryUse* use_;
  Kind kind_;
  bool scratch_;
};

}  // namespace rorqual
