// The tensor cores of the emulator.
#include <array>

#include "hopper/emulator/device.h"
#include "numerics/accumulator.h"

namespace rorqual::hopper {
namespace emulator {
namespace {

// What the report measured (spec 2.3), the worse of its two readings.
constexpr int kFractionBits = 13;
constexpr int kBf16Depth = 16, kFp8Depth = 32;

Warpgroup& warpgroup_of(Thread& thread) {
  return thread.block->warpgroups[static_cast<size_t>(thread.index / kWarpgroup)];
}

Thread::Shadow* shadow_of(Thread& thread, const float* d) {
  for (Thread::Shadow& shadow : thread.shadows)
    if (shadow.d == d) return &shadow;
  return nullptr;
}

struct Descriptor {
  uint32_t address, leading, stride;
  explicit Descriptor(uint64_t bits)
      : address(static_cast<uint32_t>(bits & 0x3fff) << 4),
        leading(static_cast<uint32_t>(bits >> 16 & 0x3fff) << 4),
        stride(static_cast<uint32_t>(bits >> 32 & 0x3fff) << 4) {
    if (bits >> 62 != 1) broken("an operand of wgmma that is not under the 128-byte swizzle");
    if ((address >> 7 & 7) != 0) broken("an operand of wgmma whose tile does not begin at a multiple of 1024 bytes");
  }
  // The byte of element (mn, k), `size` bytes each.
  uint32_t at(bool mn_major, uint32_t mn, uint32_t k, uint32_t size) const {
    const uint32_t plain = mn_major ? address + mn / 64 * leading + mn % 64 * size + k / 8 * stride + k % 8 * 128
                                    : address + mn / 8 * stride + mn % 8 * 128 + k * size;
    return swizzle_128(plain);
  }
};

float value_at(Block& block, uint32_t address, bool fp8) {
  if (fp8) return static_cast<float>(E4M3::from_bits(static_cast<uint8_t>(*shared_at(block, address, 1))));
  uint16_t bits;
  std::memcpy(&bits, shared_at(block, address, 2), 2);
  return from_bf16(bits);
}

// [rows, depth]
std::vector<float> operand(Block& block, uint64_t bits, bool mn_major, int rows, bool fp8) {
  const Descriptor d(bits);
  const int depth = fp8 ? kFp8Depth : kBf16Depth;
  std::vector<float> values(static_cast<size_t>(rows * depth));
  for (int r = 0; r < rows; ++r)
    for (int k = 0; k < depth; ++k)
      values[static_cast<size_t>(r * depth + k)] =
          value_at(block, d.at(mn_major, static_cast<uint32_t>(r), static_cast<uint32_t>(k), fp8 ? 1 : 2), fp8);
  return values;
}

std::vector<float> operand_of_registers(const Product& product) {
  std::vector<float> values(64 * kBf16Depth);
  for (int t = 0; t < kWarpgroup; ++t)
    for (int i = 0; i < 8; ++i) {
      const uint32_t packed = product.a_registers[t][i / 2];
      values[static_cast<size_t>(fragment_row(t, i) * kBf16Depth + fragment_column(t, i))] =
          i % 2 == 0 ? bf16_low(packed) : bf16_high(packed);
    }
  return values;
}

float sum(float c, const float* a, const float* b, bool fp8) {
  if (fp8) return add_products(kFractionBits, c, {a, kFp8Depth}, {b, kFp8Depth});
  double total = c;
  for (int k = 0; k < kBf16Depth; ++k) total += static_cast<double>(a[k]) * static_cast<double>(b[k]);
  return static_cast<float>(total);
}

}  // namespace

void compute(Block& block, const Product& product, float* const (&d)[kWarpgroup]) {
  const std::vector<float> a =
      product.a_in_registers ? operand_of_registers(product) : operand(block, product.a, product.a_mn, 64, product.fp8);
  const std::vector<float> b = operand(block, product.b, product.b_mn, product.n, product.fp8);
  const int depth = product.fp8 ? kFp8Depth : kBf16Depth;
  for (int t = 0; t < kWarpgroup; ++t)
    for (int i = 0; i < product.n / 2; ++i) {
      float& c = d[t][i];
      c = sum(product.add ? c : 0.0f, &a[static_cast<size_t>(fragment_row(t, i) * depth)],
              &b[static_cast<size_t>(fragment_column(t, i) * depth)], product.fp8);
    }
}

void run_products(Block& block, size_t index, uint64_t end) {
  Warpgroup& group = block.warpgroups[index];
  while (group.first < end) {
    Product& product = group.products.front();
    float* d[kWarpgroup];
    for (size_t t = 0; t < kWarpgroup; ++t)
      d[t] = shadow_of(*block.threads[index * kWarpgroup + t], product.d[t])->values.data();
    compute(block, product, d);
    group.products.pop_front();
    ++group.first;
  }
}

void wgmma(int n, float* d, const Operands& operands) {
  Thread& thread = self();
  Warpgroup& group = warpgroup_of(thread);
  const auto lane = static_cast<size_t>(thread.index % kWarpgroup);
  const uint64_t number = thread.products_issued++;
  while (number - group.first >= group.products.size()) group.products.emplace_back();
  Product& product = group.products[number - group.first];
  if (product.issued++ == 0) {
    product.fp8 = operands.fp8;
    product.a_in_registers = operands.a_registers != nullptr;
    product.a_mn = operands.a_mn;
    product.b_mn = operands.b_mn;
    product.add = operands.add;
    product.n = n;
    product.a = operands.a;
    product.b = operands.b;
  } else if (product.n != n || product.a != operands.a || product.b != operands.b || product.add != operands.add) {
    broken("the threads of a warpgroup issue different wgmma");
  }
  product.d[lane] = d;
  if (operands.a_registers != nullptr) std::copy_n(operands.a_registers, 4, product.a_registers[lane]);
  Thread::Shadow* shadow = shadow_of(thread, d);
  if (shadow == nullptr) {
    if (!thread.fenced) broken("wgmma without wgmma_fence since the registers of D were last free");
    thread.shadows.push_back({d, n / 2, number, std::vector<float>(d, d + n / 2)});
    shadow = &thread.shadows.back();
    std::fill_n(d, n / 2, std::bit_cast<float>(0xffffffffu));  // read before the wait: NaN
  }
  if (shadow->count != n / 2) broken("the registers of D change their number under way");
  shadow->last_product = number;
  if (product.issued < kWarpgroup) return;
  progressed();
  Block& block = *thread.block;
  const auto index = static_cast<size_t>(thread.index / kWarpgroup);
  const auto now = [&block, index, number] {
    if (block.warpgroups[index].first <= number) run_products(block, index, number + 1);
  };
  if (random_bits() % 2 == 0)
    now();
  else
    later(now);
}

void wgmma_wait(size_t pending) {
  Thread& thread = self();
  Block& block = *thread.block;
  const auto index = static_cast<size_t>(thread.index / kWarpgroup);
  auto& groups = thread.product_groups;
  const uint64_t end = groups.size() > pending ? groups[groups.size() - 1 - pending] : 0;
  Warpgroup& group = block.warpgroups[index];
  wait_until("wgmma_wait", [&] {
    return group.first >= end ||
           (end - group.first <= group.products.size() && group.products[end - group.first - 1].issued == kWarpgroup);
  });
  run_products(block, index, std::max(end, group.first));
  if (groups.size() > pending) groups.erase(groups.begin(), groups.end() - static_cast<std::ptrdiff_t>(pending));
  std::erase_if(thread.shadows, [&](const Thread::Shadow& shadow) {
    if (shadow.last_product >= end) return false;
    std::copy(shadow.values.begin(), shadow.values.end(), shadow.d);
    return true;
  });
  if (thread.shadows.empty()) thread.fenced = false;
}

}  // namespace emulator

void wgmma_fence() {
  emulator::self().fenced = true;
}
void wgmma_commit() {
  emulator::Thread& thread = emulator::self();
  thread.product_groups.push_back(thread.products_issued);
}

}  // namespace rorqual::hopper
