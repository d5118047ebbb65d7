#include "checkpoint/named_tensor.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "base/error.h"

namespace rorqual {

std::vector<int64_t> shape_of(const TensorSpec& spec) {
  if (spec.vector) return {spec.cols};
  return {spec.rows, spec.cols};
}

std::vector<NamedTensor> named_tensors(const TensorList& list, const Tensor& dense, const Tensor& expert,
                                       const std::string& prefix, bool trainable_only) {
  CHECK(dense.count() >= list.dense_elements() && expert.count() >= list.expert_elements(),
        "regions of {} and {} elements for a list of {} and {}", dense.count(), expert.count(), list.dense_elements(),
        list.expert_elements());
  std::vector<NamedTensor> tensors;
  tensors.reserve(list.size());
  for (const TensorSpec& s : list.specs()) {
    if (trainable_only && !s.trainable()) continue;
    const Tensor& region = s.in_expert_region() ? expert : dense;
    std::byte* begin = static_cast<std::byte*>(region.data) + s.offset * size_of(region.dtype);
    tensors.push_back({prefix + s.name, shape_of(s), Tensor(begin, region.dtype, s.rows, s.cols)});
  }
  return tensors;
}

std::vector<NamedTensor> named_tensors(const Weights& weights) {
  return named_tensors(weights.list(), weights.dense(), weights.expert());
}

std::string some_of(const std::vector<std::string>& names) {
  constexpr size_t kShown = 3;
  std::string text;
  for (size_t i = 0; i < std::min(kShown, names.size()); ++i) text += (i > 0 ? ", " : "") + names[i];
  if (names.size() > kShown) text += fmt::format(" and {} more", names.size() - kShown);
  return text;
}

void restore(const SafetensorsFile& file, const std::vector<NamedTensor>& targets) {
  std::vector<std::string> missing, surplus;
  std::set<std::string> wanted;
  for (const NamedTensor& t : targets) {
    wanted.insert(t.name);
    const SafetensorsEntry* entry = file.find(t.name);
    if (!entry) {
      missing.push_back(t.name);
      continue;
    }
    CHECK(entry->shape != t.shape || entry->count() == t.values.count(), "{}: {} values for its shape", t.name,
          t.values.count());
    if (entry->shape != t.shape)
      fail("{}: tensor '{}' has shape [{}], [{}] is needed: it belongs to a model of another shape", file.path().string(),
           t.name, fmt::join(entry->shape, ", "), fmt::join(t.shape, ", "));
    if (entry->dtype != dtype_name(t.values.dtype))
      fail("{}: tensor '{}' has dtype {}, {} is needed: it was written with another precision", file.path().string(), t.name,
           entry->dtype, dtype_name(t.values.dtype));
  }
  for (const SafetensorsEntry& e : file.entries())
    if (!wanted.contains(e.name)) surplus.push_back(e.name);
  if (!missing.empty()) fail("{}: it lacks {}", file.path().string(), some_of(missing));
  if (!surplus.empty()) fail("{}: there is no place for {}", file.path().string(), some_of(surplus));
  for (const NamedTensor& t : targets) {
    const std::byte* from = file.bytes(*file.find(t.name)).data();
    const auto row_bytes = static_cast<size_t>(t.values.cols * size_of(t.values.dtype));
    for (int64_t r = 0; r < t.values.rows && row_bytes > 0; ++r)
      std::memcpy(t.values.raw_row(r), from + static_cast<size_t>(r) * row_bytes, row_bytes);
    file.forget(*file.find(t.name));
  }
}

}  // namespace rorqual
