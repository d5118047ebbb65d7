// The weights of a model: master values in two flat regions (dense, experts), packed copies for the kernels, and buffers of
// gradients laid out alike. For inference the packed copies alone, and of what is not packed the values.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "kernels/gemm/gemm.h"
#include "model/precision.h"
#include "model/quantise_ledger.h"
#include "model/tensor_list.h"
#include "tensor/arena.h"

namespace rorqual {

// A linear layer: adjoining tensors of the list multiplied as one [n, k] weight (gate and up; q_a and kv_a).
struct Linear {
  size_t tensor = 0;  // the first of them
  int64_t n = 0, k = 0;
  PackedWeight forward;   // n × k
  PackedWeight backward;  // k × n: the input gradient
};

// Embedding and head serve the main model and every MTP module; each use has an accumulator of its own (design, idea 5).
struct GradientUse {
  size_t tensor = 0;
  int64_t offset = 0;  // elements into the dense region of a GradientBuffer
};

class GradientLayout {
 public:
  // Uses 1 … of a shared tensor lie behind the dense region; use 0 is the tensor's own place.
  explicit GradientLayout(const TensorList& list, const ModelConfig& config);
  // `use` counts: embedding 0 … depth; then, if tied, head 0 … depth.
  int64_t offset(size_t tensor, int use) const;
  int64_t dense_elements() const { return dense_elements_; }
  int64_t expert_elements() const { return expert_elements_; }
  const std::vector<GradientUse>& extra_uses() const { return extra_; }

 private:
  const TensorList* list_;
  std::vector<GradientUse> extra_;
  int64_t dense_elements_ = 0, expert_elements_ = 0;
};

// One accumulator of gradients: a view of a dense and an expert array that somebody owns.
struct GradientBuffer {
  const TensorList* list = nullptr;
  const GradientLayout* layout = nullptr;
  Tensor dense;   // [1, layout.dense_elements()]
  Tensor expert;  // [1, layout.expert_elements()]
  // [rows, cols] of a tensor, or of `rows` adjoining rows that begin with it.
  Tensor of(size_t tensor, int use = 0) const;
  Tensor of(const Linear& linear, int use = 0) const;
};

class Weights {
 public:
  // training: packed copies for the input gradient too. keep_masters: without, only of the tensors that somebody holds; not for
  // training. All memory comes from the arena.
  Weights(const ModelConfig& config, const Precision& precision, bool training, Arena& arena, bool keep_masters = true);

  const TensorList& list() const { return list_; }
  const Precision& precision() const { return precision_; }
  // What the quantisers of this model saw since it was last reset: of the weights themselves and of every training pass.
  QuantiseLedger& ledger() const { return *ledger_; }
  Tensor dense() const { return dense_; }
  Tensor expert() const { return expert_; }
  Tensor master(size_t tensor) const;  // [rows, cols]
  // The same, for a tensor that is computed with as it is: kept in any case. Before the first fill().
  Tensor hold(size_t tensor);

  // Draws every tensor from its own random numbers: normal(0, initializer_range); norms 1; routing biases 0.
  void initialise(double standard_deviation, uint64_t seed, const Stream& stream);

  // Takes every tensor from `read`, which any thread calls with a tensor and where to put it. With masters, the caller packs;
  // without, they are packed here, a few at a time.
  void fill(const std::function<void(size_t, const Tensor&)>& read, const Stream& stream);
  int64_t fill_bytes() const;  // that fill() takes while it runs

  // Registers a linear layer of `tensors` adjoining tensors; its packed copies are filled by pack(). dtype: of the packed copy.
  const Linear& add_linear(size_t tensor, int tensors, DType dtype);
  // Fills every packed copy from the master values, which must be kept: after initialising, loading, and each optimizer step.
  void pack(const Stream& stream);

  // Trainable tensors in groups of about `bytes` of master values, each with the linear layers to pack once it is updated: an
  // optimizer that updates and packs group by group reads the new values from the cache.
  struct UpdateGroup {
    std::vector<size_t> tensors;
    std::vector<PackWeightArgs> packing;
  };
  std::vector<UpdateGroup> update_groups(int64_t bytes) const;

 private:
  PackedWeight packed_weight(DType dtype, int64_t n, int64_t k);
  void fill_packed(const std::function<void(size_t, const Tensor&)>& read, const Stream& stream);
  struct FillPart;
  std::vector<FillPart> fill_parts() const;

  ModelConfig config_;
  Precision precision_;
  bool training_, keep_masters_;
  Arena& arena_;
  TensorList list_;
  std::unique_ptr<QuantiseLedger> ledger_;
  Tensor dense_, expert_;
  std::vector<Tensor> held_;  // by tensor, without masters
  std::vector<std::unique_ptr<Linear>> linears_;
  std::vector<PackWeightArgs> packing_;
};

}  // namespace rorqual
