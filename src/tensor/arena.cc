#include "tensor/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/error.h"

namespace rorqual {
namespace {
constexpr int64_t kAlign = 64;
constexpr int64_t kBlock = int64_t{4} << 20;
constexpr int64_t kHugePage = int64_t{2} << 20;
int64_t round_up(int64_t n, int64_t to) {
  return (n + to - 1) / to * to;
}
}  // namespace

std::string_view memory_class_name(MemoryClass c) {
  static constexpr std::array<std::string_view, kMemoryClasses> names = {
      "master weights",    "packed weights", "gradients", "moments", "EMA",   "activations", "linear inputs",
      "attention outputs", "SwiGLU inputs",  "scratch",   "logits",  "cache", "data",        "snapshot"};
  return names[static_cast<size_t>(c)];
}

Arena::Block Arena::make_block(MemoryClass c, int64_t length) const {
  if (kind_ == Kind::kMeasure) return {{reinterpret_cast<std::byte*>(kAlign), [](std::byte*) {}}, length};
  auto* data = static_cast<std::byte*>(std::aligned_alloc(kHugePage, static_cast<size_t>(round_up(length, kHugePage))));
  if (!data)
    fail("out of memory: {} needs {} more bytes; choose a smaller model, micro-batch or sequence", memory_class_name(c),
         length);
  // Weights and activations are walked by the gigabyte; only a hint, a kernel without huge pages loses nothing.
  ::madvise(data, static_cast<size_t>(length / kHugePage * kHugePage), MADV_HUGEPAGE);
  std::memset(data, 0, static_cast<size_t>(length));
  return {{data, [](std::byte* p) { std::free(p); }}, length};
}

Arena::~Arena() {
  release(Mark{0});
}

void* Arena::bytes(MemoryClass c, int64_t size) {
  CHECK(size >= 0);
  if (scratch_ && c >= MemoryClass::kActivations && c <= MemoryClass::kSwiGluInputs) c = MemoryClass::kScratch;
  const int64_t need = std::max(round_up(size, kAlign), kAlign);
  size_t block = entries_.empty() ? 0 : entries_.back().block;
  int64_t offset = entries_.empty() ? 0 : entries_.back().offset + entries_.back().size;
  while (block < blocks_.size() && offset + need > blocks_[block].size) ++block, offset = 0;
  if (block == blocks_.size()) {
    const int64_t length = round_up(std::max(need, kBlock), 4096);
    blocks_.push_back(make_block(c, length));
  }
  entries_.push_back({block, offset, need, c});
  held_ += need;
  if (use_) {
    const auto i = static_cast<size_t>(c);
    use_->now[i] += need;
    use_->peak[i] = std::max(use_->peak[i], use_->now[i]);
  }
  return blocks_[block].data.get() + offset;
}

Tensor Arena::tensor(MemoryClass c, DType dtype, int64_t rows, int64_t cols) {
  const int64_t stride = dtype == DType::kE5M6 ? round_up(cols, 2) : cols;
  return {bytes(c, bytes_of(dtype, rows * stride)), dtype, rows, cols, stride};
}

void Arena::release(Mark mark) {
  CHECK(mark.entries <= entries_.size());
  while (entries_.size() > mark.entries) {
    const Entry& e = entries_.back();
    held_ -= e.size;
    if (use_) use_->now[static_cast<size_t>(e.c)] -= e.size;
    entries_.pop_back();
  }
}

}  // namespace rorqual
