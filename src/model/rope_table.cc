#include "model/rope_table.h"

#include <cmath>
#include <numbers>

namespace rorqual {

std::vector<double> rope_frequencies(int64_t dim, double theta, const RopeScaling& s) {
  std::vector<double> f;
  const auto d = static_cast<double>(dim);
  for (int64_t i = 0; i < dim / 2; ++i) f.push_back(std::pow(theta, -2.0 * static_cast<double>(i) / d));
  if (s.factor == 1) return f;
  // The pair of dimensions that turns `rotations` times within the original context.
  const auto dim_of = [&](double rotations) {
    return d * std::log(static_cast<double>(s.original_max_position_embeddings) / (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(theta));
  };
  const double low = std::max(std::floor(dim_of(s.beta_fast)), 0.0);
  double high = std::min(std::ceil(dim_of(s.beta_slow)), d - 1);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < f.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    f[i] = f[i] / s.factor * ramp + f[i] * (1 - ramp);
  }
  return f;
}

Tensor make_rope_table(const ModelConfig& c, int64_t positions, DType dtype, Arena& arena, const Stream& stream) {
  const int64_t dim = c.rope_dim();
  const std::vector<double> f = rope_frequencies(dim, c.rope_theta, c.rope_scaling);
  const auto m = [&](double coefficient) {
    return coefficient == 0 ? 1.0 : 0.1 * coefficient * std::log(c.rope_scaling.factor) + 1;
  };
  const double amplitude = c.has_yarn() ? m(c.rope_scaling.mscale) / m(c.rope_scaling.mscale_all_dim) : 1.0;
  Tensor table = arena.tensor(MemoryClass::kScratch, dtype, positions, dim);
  constexpr int64_t kBlock = 256;
  stream.parallel((positions + kBlock - 1) / kBlock, [&](int64_t block) {
    visit_float(dtype, [&](auto zero) {
      using T = decltype(zero);
      for (int64_t p = block * kBlock; p < std::min((block + 1) * kBlock, positions); ++p) {
        T* row = table.row<T>(p);
        for (int64_t i = 0; i < dim / 2; ++i) {
          const double angle = static_cast<double>(p) * f[static_cast<size_t>(i)];
          row[i] = static_cast<T>(amplitude * std::cos(angle));
          row[dim / 2 + i] = static_cast<T>(amplitude * std::sin(angle));
        }
      }
    });
  });
  return table;
}

}  // namespace rorqual
