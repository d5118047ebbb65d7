// pack_weights on Hopper: bit for bit what the CPU packs.
#include <gmock/gmock.h>

#include <cmath>
#include <cstring>

#include "base/rng.h"
#include "hopper/test_support.h"
#include "kernels/gemm/block.h"
#include "kernels/gemm/sm90a.h"

namespace rorqual {
namespace {

using PackWeightsSm90a = hopper::HopperTest;
using hopper::DeviceBuffer;
using hopper::to_host;

// A copy on the CPU, in panels, and on the device, in rows.
struct Copies {
  std::vector<uint8_t> panels_memory;
  std::vector<float> panel_scales;
  DeviceBuffer rows_memory, row_scales;
  PackedWeight panels, rows;
  Copies(DType dtype, int64_t n, int64_t k)
      : panels_memory(static_cast<size_t>(PackedWeight::bytes(dtype, n, k)) + 64),
        panel_scales(static_cast<size_t>(PackedWeight::scale_count(n, k)), -1),
        rows_memory(static_cast<size_t>(n * k * size_of(dtype))),
        row_scales(static_cast<size_t>(PackedWeight::scale_count(n, k)) * 4) {
    const auto at = reinterpret_cast<uintptr_t>(panels_memory.data());
    panels = {panels_memory.data() + (64 - at % 64) % 64, dtype, n, k, dtype == DType::kE4M3 ? panel_scales.data() : nullptr};
    rows = {rows_memory.data(),         dtype, n, k, dtype == DType::kE4M3 ? row_scales.as<float>() : nullptr,
            PackedWeight::Layout::kRows};
  }

  // The bits of element (i, j) in panels.
  template <class T>
  T element(int64_t i, int64_t j) const {
    T value;
    const int64_t at = i / 16 * gemm::panel_elements(panels.dtype, panels.k) + gemm::panel_index<T>(i % 16, j);
    std::memcpy(&value, static_cast<const T*>(panels.data) + at, sizeof value);
    return value;
  }
  template <class T>
  void expect_same_elements(const std::string& what) const {
    const auto got = to_host<T>(rows_memory);
    for (int64_t i = 0; i < panels.n; ++i)
      for (int64_t j = 0; j < panels.k; ++j)
        ASSERT_EQ(got[static_cast<size_t>(i * panels.k + j)], element<T>(i, j))
            << what << ", element [" << i << ", " << j << "] of [" << panels.n << ", " << panels.k << "]";
  }
  void expect_same(const std::string& what) const {
    if (panels.dtype == DType::kF32) return expect_same_elements<uint32_t>(what);
    if (panels.dtype == DType::kBF16) return expect_same_elements<uint16_t>(what);
    expect_same_elements<uint8_t>(what);
    const auto got = to_host<float>(row_scales);
    for (size_t i = 0; i < got.size(); ++i)
      ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(panel_scales[i])) << what << ", scale " << i;
  }
};

// A source of [rows, cols] with gaps that hold NaN; magnitudes of many sizes, zeros, whole blocks of zeros.
struct Source {
  std::vector<std::byte> host;
  DeviceBuffer device;
  Tensor on_host, on_device;
  Source(DType dtype, int64_t rows, int64_t cols, int64_t gap, uint64_t seed)
      : host(static_cast<size_t>(rows * (cols + gap) * size_of(dtype)), std::byte{0xff}) {
    on_host = {host.data(), dtype, rows, cols, cols + gap};
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c) {
        const auto words = random_words({.seed = seed}, static_cast<uint64_t>(r * cols + c));
        const bool zero = words[2] % 11 == 0 || (r / 128 + c / 128) % 5 == 4;
        const int block_exponent = static_cast<int>((r / 128 * 7 + c / 128 * 3) % 40) - 30;
        const float value =
            (static_cast<float>(words[0]) * 0x1p-31f - 1) * std::ldexp(1.0f, block_exponent - static_cast<int>(words[1] % 16));
        set(r, c, zero ? 0.0f : value);
      }
  }
  void set(int64_t r, int64_t c, float value) {
    if (on_host.dtype == DType::kF32)
      on_host.row<float>(r)[c] = value;
    else
      on_host.row<Bf16>(r)[c] = Bf16(value);
  }
  void upload() {
    device = DeviceBuffer(host.data(), host.size());
    on_device = on_host;
    on_device.data = device.data();
  }
};

struct Case {
  int64_t n, k;
  DType from, packed, transposed;
  Quantiser quantiser = {};
  int64_t gap = 0;
};

PackWeightArgs on_cpu(const Source& source, const Copies& packed, const Copies& transposed, const Quantiser& q) {
  return {source.on_host, packed.panels, transposed.panels, q};
}
PackWeightArgs on_gpu(const Source& source, const Copies& packed, const Copies& transposed, const Quantiser& q) {
  return {source.on_device, packed.rows, transposed.rows, q};
}

template <class Change>
void expect_as_on_cpu(const Case& c, const Change& change) {
  SCOPED_TRACE(fmt::format("[{}, {}] {} to {} and {}, gap {}", c.n, c.k, dtype_name(c.from), dtype_name(c.packed),
                           dtype_name(c.transposed), c.gap));
  Source source(c.from, c.n, c.k, c.gap, static_cast<uint64_t>(c.n * 1000 + c.k));
  change(source);
  source.upload();
  const Copies packed(c.packed, c.n, c.k), transposed(c.transposed, c.k, c.n);
  ThreadPool pool(1);
  const ScopedIsa isa(Isa::kReference);
  const std::vector<PackWeightArgs> cpu = {on_cpu(source, packed, transposed, c.quantiser)};
  const std::vector<PackWeightArgs> gpu = {on_gpu(source, packed, transposed, c.quantiser)};
  pack_weights(cpu, Stream(pool));
  pack_weights_sm90a(gpu, Stream::on_device());
  packed.expect_same("packed");
  transposed.expect_same("transposed");
}
void expect_as_on_cpu(const Case& c) {
  expect_as_on_cpu(c, [](Source&) {});
}

constexpr DType kF32 = DType::kF32, kBF16 = DType::kBF16, kE4M3 = DType::kE4M3;

TEST_F(PackWeightsSm90a, CodesAndScalesOfAnyShape) {
  for (const ScaleRule rule : {ScaleRule::kPow2, ScaleRule::kFp32})
    for (const DType from : {kF32, kBF16}) {
      for (const auto& [n, k] : {std::pair<int64_t, int64_t>{128, 128}, {1, 1}, {16, 8}, {130, 260}, {127, 144}, {384, 256}})
        expect_as_on_cpu({n, k, from, kE4M3, kE4M3, {.rule = rule}});
      expect_as_on_cpu({144, 160, from, kE4M3, kE4M3, {.rule = rule}, 3});
      expect_as_on_cpu({144, 130, from, kE4M3, kE4M3, {.rule = rule}, 6});
    }
}

TEST_F(PackWeightsSm90a, RandomShapes) {
  for (uint64_t i = 0; i < 12; ++i) {
    const auto words = random_words({.seed = 9}, i);
    expect_as_on_cpu({1 + words[0] % 280,
                      1 + words[1] % 280,
                      words[2] % 2 == 0 ? kF32 : kBF16,
                      kE4M3,
                      kE4M3,
                      {.rule = words[3] % 2 == 0 ? ScaleRule::kPow2 : ScaleRule::kFp32},
                      words[2] / 2 % 5});
  }
}

TEST_F(PackWeightsSm90a, PlainCopies) {
  for (const DType from : {kF32, kBF16})
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{128, 128}, {3, 5}, {136, 200}, {129, 131}}) {
      expect_as_on_cpu({n, k, from, kBF16, kBF16});
      expect_as_on_cpu({n, k, from, kF32, kF32});
      expect_as_on_cpu({n, k, from, kBF16, kF32, {}, 2});
    }
}

TEST_F(PackWeightsSm90a, ExtremesBecomeWhatTheyBecomeOnTheCpu) {
  const float kInf = std::bit_cast<float>(0x7f800000u), kNan = std::bit_cast<float>(0x7fc00000u);
  for (const ScaleRule rule : {ScaleRule::kPow2, ScaleRule::kFp32})
    for (const float extreme : {kInf, -kInf, kNan, 3e38f, -1e-45f, 1e-38f, 448.0f, 0x1p-126f})
      for (const float rest : {0.0f, 1e-44f, -0.0f}) {
        expect_as_on_cpu({130, 20, kF32, kE4M3, kE4M3, {.rule = rule}}, [&](Source& source) {
          for (int64_t r = 0; r < 128; ++r)
            for (int64_t c = 0; c < 20; ++c) source.set(r, c, c % 2 == 0 ? rest : source.on_host.row<float>(r)[c] * extreme);
          source.set(77, 13, extreme);
        });
      }
}

TEST_F(PackWeightsSm90a, OneScaleForTheTensor) {
  for (const ScaleRule rule : {ScaleRule::kPow2, ScaleRule::kFp32})
    for (const float amax : {0.3f, 1e-6f})
      expect_as_on_cpu({140, 270, kF32, kE4M3, kE4M3, {.rule = rule, .granularity = Granularity::kTensor, .amax = amax}},
                       [](Source& source) { source.set(3, 3, std::bit_cast<float>(0x7f800000u)); });
}

TEST_F(PackWeightsSm90a, ListsOfManyKindsAndOneCopyAlone) {
  std::vector<Source> sources;
  std::vector<Copies> packed, transposed;
  std::vector<PackWeightArgs> cpu, gpu;
  const auto n = [](size_t i) { return static_cast<int64_t>(1 + i * 37 % 19); };
  const auto k = [](size_t i) { return static_cast<int64_t>(1 + i * 53 % 23); };
  for (size_t i = 0; i < 300; ++i) {
    const DType to = i % 7 == 0 ? kBF16 : i % 7 == 1 ? kF32 : kE4M3;
    sources.emplace_back(i % 5 == 0 ? kBF16 : kF32, n(i), k(i), 0, i);
    sources.back().upload();
    packed.emplace_back(to, n(i), k(i));
    transposed.emplace_back(to, k(i), n(i));
  }
  for (size_t i = 0; i < sources.size(); ++i) {
    cpu.push_back(on_cpu(sources[i], packed[i], transposed[i], {}));
    gpu.push_back(on_gpu(sources[i], packed[i], transposed[i], {}));
    if (i % 3 == 1) cpu.back().packed = gpu.back().packed = {};
    if (i % 3 == 2) cpu.back().transposed = gpu.back().transposed = {};
  }
  ThreadPool pool(1);
  const ScopedIsa isa(Isa::kReference);
  pack_weights(cpu, Stream(pool));
  pack_weights_sm90a(gpu, Stream::on_device());
  for (size_t i = 0; i < sources.size(); ++i) {
    SCOPED_TRACE(i);
    if (i % 3 != 1) packed[i].expect_same("packed");
    if (i % 3 != 2) transposed[i].expect_same("transposed");
    const auto untouched = [](const DeviceBuffer& buffer) {
      for (const uint8_t byte : to_host<uint8_t>(buffer)) ASSERT_EQ(byte, 0xff) << "a copy that nobody wanted";
    };
    if (i % 3 == 1) untouched(packed[i].rows_memory);
    if (i % 3 == 2) untouched(transposed[i].rows_memory);
  }
}

TEST_F(PackWeightsSm90a, EmptyWeightsAndLists) {
  pack_weights_sm90a({}, Stream::on_device());
  const DeviceBuffer memory(64);
  const PackedWeight none{memory.data(), kE4M3, 0, 16, nullptr, PackedWeight::Layout::kRows};
  const std::vector<PackWeightArgs> list = {{Tensor(nullptr, kF32, 0, 16), none, {}, {}}};
  pack_weights_sm90a(list, Stream::on_device());
  for (const uint8_t byte : to_host<uint8_t>(memory)) EXPECT_EQ(byte, 0xff);
}

TEST_F(PackWeightsSm90a, SaysWhatItDoesNotTake) {
  const DeviceBuffer memory(1024);
  const auto reason = [&](auto change) {
    const PackedWeight w{memory.data(), kE4M3, 16, 16, memory.as<float>(), PackedWeight::Layout::kRows};
    std::vector<PackWeightArgs> list = {{Tensor(memory.data(), kF32, 16, 16), w, w, {}}};
    change(list[0]);
    return refuse_pack_weights_sm90a(list);
  };
  using ::testing::HasSubstr;
  QuantiseStatistics statistics;
  EXPECT_EQ(reason([](auto&) {}), "");
  EXPECT_THAT(reason([](auto& args) { args.source.dtype = DType::kF64; }), HasSubstr("source holds F64"));
  EXPECT_THAT(reason([](auto& args) { args.packed.layout = PackedWeight::Layout::kPanels; }), HasSubstr("panels"));
  EXPECT_THAT(reason([](auto& args) { args.transposed.dtype = DType::kE5M2; }), HasSubstr("F8_E5M2"));
  EXPECT_THAT(reason([&](auto& args) { args.quantiser.statistics = &statistics; }), HasSubstr("statistics"));
  EXPECT_THAT(reason([](auto& args) { args.quantiser.granularity = Granularity::kTensor; }), HasSubstr("amax"));
}

}  // namespace
}  // namespace rorqual
