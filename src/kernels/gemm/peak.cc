#include "kernels/gemm/peak.h"

#include <algorithm>
#include <vector>

#include "base/clock.h"
#include "base/cpu.h"
#include "kernels/gemm/kernels.h"

namespace rorqual {
double measure_peak_flops(DType operands, const Stream& stream) {
  constexpr int kRepeats = 8;
  constexpr double kRepeat_s = 6e-3;
  const gemm::PeakLoop loop = gemm::peak_loop_of(allowed_isa(), operands);
  int64_t rounds = 1000;  // grown until a repeat is long enough to time; this warms the clock up as well
  double best = 0;
  const auto threads = static_cast<int64_t>(stream.threads());
  std::vector<double> flops(static_cast<size_t>(threads));
  for (int repeat = 0; repeat < kRepeats;) {
    const double begin_s = seconds_now();
    stream.parallel(threads, [&](int64_t t) { flops[static_cast<size_t>(t)] = loop(rounds); });
    const double taken_s = seconds_now() - begin_s;
    if (taken_s < kRepeat_s / 2) {
      rounds *= 2;
      continue;
    }
    double total = 0;
    for (const double f : flops) total += f;
    best = std::max(best, total / taken_s * 1e-9);
    ++repeat;
  }
  return best;
}

}  // namespace rorqual
