#include "model/weights.h"

#include <algorithm>

#include "base/file.h"
#include "base/rng.h"

namespace rorqual {
namespace {

// Elements of a layer's masters, rounded up so that the next ones are aligned.
int64_t room_of(const Linear& linear) {
  return (linear.n * linear.k + 15) / 16 * 16;
}

}  // namespace

GradientLayout::GradientLayout(const TensorList& list, const ModelConfig& c)
    : list_(&list), dense_elements_(list.dense_elements()), expert_elements_(list.expert_elements()) {
  auto add = [&](size_t tensor) {
    dense_elements_ = (dense_elements_ + 15) / 16 * 16;
    extra_.push_back({tensor, dense_elements_});
    dense_elements_ += list[tensor].count();
  };
  const size_t embedding = list.at("model.embed_tokens.weight");
  const int64_t depth = c.num_nextn_predict_layers;
  const int64_t embedding_uses = c.tie_word_embeddings ? 2 * (depth + 1) : depth + 1;
  for (int64_t use = 1; use < embedding_uses; ++use) add(embedding);
  if (!c.tie_word_embeddings)
    for (int64_t use = 1; use < depth + 1; ++use) add(list.at("lm_head.weight"));
}

int64_t GradientLayout::offset(size_t tensor, int use) const {
  if (use == 0) return (*list_)[tensor].offset;
  for (const GradientUse& u : extra_)
    if (u.tensor == tensor && --use == 0) return u.offset;
  CHECK(false, "tensor {} has no such use", (*list_)[tensor].name);
}

Tensor GradientBuffer::of(size_t tensor, int use) const {
  const TensorSpec& s = (*list)[tensor];
  const Tensor& region = s.in_expert_region() ? expert : dense;
  return {region.col_range(layout->offset(tensor, use), s.count()).data, region.dtype, s.rows, s.cols};
}

Tensor GradientBuffer::of(const Linear& linear, int use) const {
  const Tensor first = of(linear.tensor, use);
  return {first.data, first.dtype, linear.n, linear.k};
}

Weights::Weights(const ModelConfig& config, const Precision& precision, bool training, Arena& arena, bool keep_masters)
    : config_(config),
      precision_(precision),
      training_(training),
      keep_masters_(keep_masters),
      arena_(arena),
      list_(config),
      ledger_(std::make_unique<QuantiseLedger>(config.num_hidden_layers + config.num_nextn_predict_layers)) {
  CHECK(keep_masters || !training, "training needs the master weights");
  held_.resize(keep_masters ? 0 : list_.size());
  if (!keep_masters) return;
  dense_ = arena.tensor(MemoryClass::kMasterWeights, precision.full, 1, list_.dense_elements());
  expert_ = arena.tensor(MemoryClass::kMasterWeights, precision.full, 1, list_.expert_elements());
}

Tensor Weights::hold(size_t tensor) {
  const TensorSpec& s = list_[tensor];
  if (!keep_masters_ && !held_[tensor])
    held_[tensor] = arena_.tensor(MemoryClass::kMasterWeights, precision_.full, s.rows, s.cols);
  return master(tensor);
}

Tensor Weights::master(size_t tensor) const {
  const TensorSpec& s = list_[tensor];
  if (!keep_masters_) {
    CHECK(held_[tensor], "nobody holds {}", s.name);
    return held_[tensor];
  }
  const Tensor& region = s.in_expert_region() ? expert_ : dense_;
  return {region.col_range(s.offset, s.count()).data, region.dtype, s.rows, s.cols};
}

void Weights::initialise(double standard_deviation, uint64_t seed, const Stream& stream) {
  for (size_t i = 0; i < list_.size(); ++i) {
    const Tensor w = master(i);
    const Role role = list_[i].role;
    // The key is the tensor's name, so that a weight does not depend on what else the model has.
    const uint64_t key = hash_bytes(list_[i].name.data(), static_cast<int64_t>(list_[i].name.size()));
    constexpr int64_t kBlock = 1 << 14;
    stream.parallel((w.count() + kBlock - 1) / kBlock, [&](int64_t block) {
      visit_float(w.dtype, [&](auto zero) {
        using T = decltype(zero);
        T* out = static_cast<T*>(w.data);
        for (int64_t e = block * kBlock; e < std::min((block + 1) * kBlock, w.count()); ++e) {
          double value = role == Role::kNorm ? 1 : 0;
          if (role != Role::kNorm && role != Role::kRouterBias)
            value =
                standard_deviation * random_normal({seed ^ key, RandomPurpose::kInitialise, 0, 0}, static_cast<uint64_t>(e));
          out[e] = static_cast<T>(static_cast<float>(value));  // the same start in every precision
        }
      });
    });
  }
}

void Weights::fill(const std::function<void(size_t, const Tensor&)>& read, const Stream& stream) {
  std::vector<size_t> whole;
  for (size_t i = 0; i < list_.size(); ++i)
    if (keep_masters_ || held_[i]) whole.push_back(i);
  stream.parallel(static_cast<int64_t>(whole.size()), [&](int64_t i) {
    const size_t tensor = whole[static_cast<size_t>(i)];
    read(tensor, master(tensor));
  });
  if (!keep_masters_) fill_packed(read, stream);
}

// Linear layers that are read before they are packed together, in a buffer of so many elements.
struct Weights::FillPart {
  size_t begin = 0, end = 0;
  int64_t elements = 0;
};

std::vector<Weights::FillPart> Weights::fill_parts() const {
  constexpr int64_t kElements = int64_t{1} << 24;  // or one layer that is larger
  std::vector<FillPart> parts;
  for (size_t i = 0; i < linears_.size(); ++i) {
    const int64_t room = room_of(*linears_[i]);
    if (parts.empty() || parts.back().elements + room > kElements) parts.push_back({i, i, 0});
    parts.back().end = i + 1;
    parts.back().elements += room;
  }
  return parts;
}

int64_t Weights::fill_bytes() const {
  int64_t most = 0;
  if (!keep_masters_)
    for (const FillPart& part : fill_parts()) most = std::max(most, part.elements);
  return most * size_of(precision_.full);
}

void Weights::fill_packed(const std::function<void(size_t, const Tensor&)>& read, const Stream& stream) {
  Arena memory;
  const Tensor buffer = memory.tensor(MemoryClass::kMasterWeights, precision_.full, 1, fill_bytes() / size_of(precision_.full));
  for (const FillPart& part : fill_parts()) {
    std::vector<PackWeightArgs> packing(packing_.begin() + static_cast<std::ptrdiff_t>(part.begin),
                                        packing_.begin() + static_cast<std::ptrdiff_t>(part.end));
    std::vector<std::pair<size_t, Tensor>> wanted;
    int64_t at = 0;
    for (size_t i = part.begin; i < part.end; ++i) {
      const Linear& linear = *linears_[i];
      packing[i - part.begin].source = {buffer.col_range(at, linear.n * linear.k).data, buffer.dtype, linear.n, linear.k};
      int64_t rows = 0;
      for (size_t t = linear.tensor; rows < linear.n; rows += list_[t++].rows)
        wanted.emplace_back(t, packing[i - part.begin].source.row_range(rows, list_[t].rows));
      at += room_of(linear);
    }
    stream.parallel(static_cast<int64_t>(wanted.size()), [&](int64_t i) {
      const auto& [tensor, target] = wanted[static_cast<size_t>(i)];
      read(tensor, target);
    });
    pack_weights(packing, stream);
  }
}

PackedWeight Weights::packed_weight(DType dtype, int64_t n, int64_t k) {
  PackedWeight w{arena_.bytes(MemoryClass::kPackedWeights, PackedWeight::bytes(dtype, n, k)), dtype, n, k};
  if (dtype == DType::kE4M3)
    w.scale =
        static_cast<float*>(arena_.bytes(MemoryClass::kPackedWeights, PackedWeight::scale_count(n, k) * size_of(DType::kF32)));
  return w;
}

const Linear& Weights::add_linear(size_t tensor, int tensors, DType dtype) {
  auto linear = std::make_unique<Linear>();
  linear->tensor = tensor;
  linear->k = list_[tensor].cols;
  for (size_t i = tensor; i < tensor + static_cast<size_t>(tensors); ++i) {
    CHECK(list_[i].cols == linear->k && list_[i].offset == list_[tensor].offset + linear->n * linear->k,
          "{} does not adjoin {}", list_[i].name, list_[tensor].name);
    linear->n += list_[i].rows;
  }
  PackWeightArgs pack;
  if (keep_masters_) pack.source = Tensor(master(tensor).data, precision_.full, linear->n, linear->k);
  pack.packed = linear->forward = packed_weight(dtype, linear->n, linear->k);
  if (dtype == DType::kE4M3) {
    pack.quantiser = precision_.weights;
    if (const int64_t layer = list_[tensor].layer; layer >= 0)
      pack.quantiser.statistics = ledger_->at(layer, QuantisedTensor::kWeights);
  }
  if (training_) pack.transposed = linear->backward = packed_weight(dtype, linear->k, linear->n);
  packing_.push_back(pack);
  linears_.push_back(std::move(linear));
  return *linears_.back();
}

void Weights::pack(const Stream& stream) {
  CHECK(keep_masters_, "without masters, fill() packs");
  pack_weights(packing_, stream);
}

std::vector<Weights::UpdateGroup> Weights::update_groups(int64_t bytes) const {
  std::vector<UpdateGroup> groups(1);
  int64_t held = 0;
  std::vector<bool> in_linear(list_.size(), false);
  const auto add = [&](const std::vector<size_t>& tensors, const PackWeightArgs* packing) {
    int64_t size = 0;
    for (const size_t t : tensors) size += master(t).bytes();
    if (held > 0 && held + size > bytes) {
      groups.emplace_back();
      held = 0;
    }
    held += size;
    groups.back().tensors.insert(groups.back().tensors.end(), tensors.begin(), tensors.end());
    if (packing != nullptr) groups.back().packing.push_back(*packing);
  };
  for (size_t i = 0; i < linears_.size(); ++i) {
    std::vector<size_t> tensors;
    int64_t rows = 0;
    for (size_t t = linears_[i]->tensor; rows < linears_[i]->n; ++t) {
      tensors.push_back(t);
      in_linear[t] = true;
      rows += list_[t].rows;
    }
    add(tensors, &packing_[i]);
  }
  for (size_t t = 0; t < list_.size(); ++t)
    if (!in_linear[t] && list_[t].trainable()) add({t}, nullptr);
  return groups;
}

}  // namespace rorqual
