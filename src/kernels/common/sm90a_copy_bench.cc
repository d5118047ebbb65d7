// What other figures are held against: a copy of 1 GiB, and kernels that do nothing.
#include "kernels/common/sm90a_figure.h"

namespace rorqual {
namespace {

using ::rorqual::testing::add_figure;
using ::rorqual::testing::Figure;
using ::rorqual::testing::sized;

const bool kRegistered = [] {
  add_figure("copy/1GiB", [](Figure& figure) {
    const int64_t bytes = sized(int64_t{1} << 30, 1 << 16);
    const Tensor from = figure.memory.random(DType::kBF16, 1, bytes / 2), to = figure.memory.blank(DType::kBF16, 1, bytes / 2);
    figure.set_work({.bytes = 2.0 * static_cast<double>(bytes)}, 2 * bytes);
    figure.add("copy", "", [=](int, const Stream& stream) {
      hopper::copy_on_device(to.data, from.data, static_cast<size_t>(bytes), stream.device_stream());
    });
    figure.add_counter("launch_gap_us", hopper::launch_gap_us());
  });
  return true;
}();

}  // namespace
}  // namespace rorqual
