// Launching pack_weights' kernel.
#include <memory>

#include "kernels/gemm/check.h"
#include "kernels/gemm/sm90a.h"
#include "kernels/gemm/sm90a_pack_job.h"

namespace rorqual {
namespace {

using gemm::kPackTile;
using gemm::PackEntry;
using gemm::PackFrom;
using gemm::PackJob;
using gemm::PackTo;

bool aligned(const void* p, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % static_cast<uintptr_t>(bytes) == 0;
}
int64_t tiles(int64_t size) {
  return (size + kPackTile - 1) / kPackTile;
}

std::string refuse(const PackWeightArgs& args) {
  if (args.source.dtype != DType::kF32 && args.source.dtype != DType::kBF16)
    return fmt::format("the source holds {}, not F32 or BF16", dtype_name(args.source.dtype));
  for (const PackedWeight& w : {args.packed, args.transposed}) {
    if (!w) continue;
    if (w.layout != PackedWeight::Layout::kRows) return "a copy in panels, which are for CPUs";
    if (w.dtype != DType::kF32 && w.dtype != DType::kBF16 && w.dtype != DType::kE4M3)
      return fmt::format("a copy in {}", dtype_name(w.dtype));
    if (w.dtype == DType::kE4M3 && args.quantiser.statistics != nullptr) return "statistics, which are counted on CPUs";
    if (w.dtype == DType::kE4M3 && args.quantiser.granularity == Granularity::kTensor && !(args.quantiser.amax > 0))
      return "a scale for the whole tensor whose amax is not known";
  }
  return {};
}

PackTo pack_to(DType dtype) {
  return dtype == DType::kE4M3 ? PackTo::kE4M3 : dtype == DType::kBF16 ? PackTo::kBF16 : PackTo::kF32;
}

// Entries of one kind, launched when there are as many as a launch takes.
class Launcher {
 public:
  Launcher(PackFrom from, PackTo to, const Stream& stream) : from_(from), to_(to), stream_(stream) {}

  void add(const PackWeightArgs& args) {
    const DType from = from_ == PackFrom::kF32 ? DType::kF32 : DType::kBF16;
    if (args.source.dtype != from || args.source.count() == 0) return;
    const auto wanted = [&](const PackedWeight& w) { return w && pack_to(w.dtype) == to_; };
    const bool packed = wanted(args.packed), transposed = wanted(args.transposed);
    if (!packed && !transposed) return;

    const int64_t count = tiles(args.source.rows) * tiles(args.source.cols);
    CHECK(count < INT32_MAX / 2, "pack_weights_sm90a: a weight of [{}, {}]", args.source.rows, args.source.cols);
    if (job_->entries == gemm::kMostPackEntries || job_->tiles + count > INT32_MAX / 2) launch();
    PackEntry& entry = job_->entry[job_->entries++];
    entry = {.source = args.source.data,
             .stride = args.source.stride,
             .packed = packed ? args.packed.data : nullptr,
             .transposed = transposed ? args.transposed.data : nullptr,
             .packed_scale = args.packed.scale,
             .transposed_scale = args.transposed.scale,
             .rows = static_cast<int32_t>(args.source.rows),
             .cols = static_cast<int32_t>(args.source.cols),
             .first_tile = job_->tiles,
             .tensor_amax = args.quantiser.granularity == Granularity::kTensor ? args.quantiser.amax : 0,
             .rule = args.quantiser.rule,
             .wide_source = args.source.stride % 4 == 0 && aligned(args.source.data, 4 * size_of(from)),
             .wide_packed = packed && args.packed.k * size_of(args.packed.dtype) % 16 == 0,
             .wide_transposed = transposed && args.transposed.k * size_of(args.transposed.dtype) % 16 == 0};
    job_->tiles += static_cast<int32_t>(count);
  }
  void launch() {
    if (job_->entries > 0) gemm::launch_pack(from_, to_, *job_, stream_.device_stream());
    *job_ = {};
  }

 private:
  PackFrom from_;
  PackTo to_;
  const Stream& stream_;
  std::unique_ptr<PackJob> job_ = std::make_unique<PackJob>();
};

}  // namespace

std::string refuse_pack_weights_sm90a(std::span<const PackWeightArgs> list) {
  for (const PackWeightArgs& args : list)
    if (std::string reason = refuse(args); !reason.empty()) return reason;
  return {};
}

void pack_weights_sm90a(std::span<const PackWeightArgs> list, const Stream& stream) {
  const std::string reason = refuse_pack_weights_sm90a(list);
  CHECK(reason.empty(), "pack_weights_sm90a: {}", reason);
  for (const PackWeightArgs& args : list) gemm::check(args);
  for (const PackFrom from : {PackFrom::kF32, PackFrom::kBF16})
    for (const PackTo to : {PackTo::kF32, PackTo::kBF16, PackTo::kE4M3}) {
      Launcher launcher(from, to, stream);
      for (const PackWeightArgs& args : list) launcher.add(args);
      launcher.launch();
    }
}

}  // namespace rorqual
