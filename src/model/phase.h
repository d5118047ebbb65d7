// A transformer block is a list of phases (design, idea 1): each is compute or communication, and each has forward, input
// gradient and weight gradient, apart, so that the weight half can be deferred. What a micro-batch needs later lives in its
// BlockState, never in the layer.
#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/attention/paged_attention.h"
#include "model/config.h"
#include "model/quantise_ledger.h"
#include "model/weights.h"
#include "plan/dispatch.h"
#include "tensor/arena.h"

namespace rorqual {

// MLA's up-projections per head, as decoding needs them (spec 1.3): key maps q_nope to a query of latents, value maps the
// attended latents to the head's output.
struct AbsorbedWeights {
  std::vector<PackedWeight> key, value;
};

// One layer's part of a pass over a paged cache (model/inference.h). Rows append themselves before they attend.
struct PagedLayer {
  Tensor cache;  // [pages·64, AttentionLayer::cache_width()]
  std::span<const PagedSequence> sequences;
  const AbsorbedWeights* absorbed = nullptr;
};

// Which row of a micro-batch is what: whole sequences of equal or different length, one after another.
struct RowLayout {
  int64_t rows = 0;
  int64_t sequence_length = 0;  // equal lengths in training (the balance loss is per sequence)
  std::vector<AttentionSequence> sequences;
  std::vector<int32_t> position;       // [rows] for RoPE
  std::vector<int64_t> segment_start;  // empty: documents are packed without masks (report §4.1)
};
// `sequences` sequences of `length` rows, positions from 0.
RowLayout uniform_layout(int64_t sequences, int64_t length);

// What all phases of one pass share.
struct Pass {
  const ModelConfig* config = nullptr;
  Precision precision;
  const Stream* stream = nullptr;
  bool training = false;  // keep what backward needs
  bool recompute = true;  // norms, MLA up-projections and SwiGLU outputs again in backward (report §3.2.3)
  const GradientBuffer* gradients = nullptr;
  QuantiseLedger* ledger = nullptr;  // of FP8; or none
  double balance_coefficient = 0;    // alpha / sequences in the step
  Tensor rope_table;
};

// Saved activations and, during backward, output gradients of one block for one micro-batch. Tensors named d_… are gradients.
// `saved` ones live from forward to backward; the others until the block's half is done. Operands of linear layers are
// ScaledTensors: codes with scales in FP8, plain otherwise.
struct AttentionState {
  ScaledTensor in;                   // [rows, hidden] normed input (recomputed)
  Tensor down;                       // [rows, …] saved: query latent or query | latent | rope key; llama: q | k | v
  ScaledTensor q_latent, kv_latent;  // normed (recomputed)
  Tensor q, kv;                      // up-projections (recomputed)
  ScaledTensor o;                    // saved, in Precision::attention_cache
  Tensor lse;                        // saved
  ScaledTensor d_out;                // [rows, hidden] gradient of the output projection's output
  ScaledTensor d_q, d_kv, d_down;
  Tensor d_q_latent, d_kv_latent, d_in;
};
struct MlpState {
  ScaledTensor gate_up;  // saved, in Precision::swiglu_cache
  ScaledTensor hidden;   // SwiGLU output (recomputed)
  ScaledTensor d_out, d_gate_up;
};
struct MoeState {
  Tensor scores, expert, weight;  // saved: [rows, experts], [rows, top_k] I32, [rows, top_k]
  DispatchPlan plan;
  ScaledTensor dispatched;  // saved: the experts' input, as it was sent
  Tensor row_weight;        // saved: [1, plan rows] routing weight
  ScaledTensor gate_up;     // saved, in Precision::swiglu_cache
  ScaledTensor hidden;      // (recomputed)
  Tensor out;               // experts' output, until combine
  ScaledTensor d_out, d_gate_up;
  Tensor d_dispatched, d_row_weight, d_logits;
  MlpState shared;
};
struct BlockState {
  const RowLayout* layout = nullptr;
  int64_t layer = 0;                  // MTP modules follow the last layer
  const PagedLayer* paged = nullptr;  // inference; null: whole sequences from position 0, as in training
  Arena* saved = nullptr;             // from forward to backward
  Arena* scratch = nullptr;           // of the half that runs
  Tensor x, h, y;                     // residual stream: into the block, after attention, out
  ScaledTensor u;                     // [rows, hidden] normed input of the second half (recomputed)
  Tensor u_full;                      // the same in Precision::full, for the router
  Tensor d;                           // backward: gradient of the residual stream, in place
  Tensor d_u;                         // gradient of u, full precision
  AttentionState attention;
  MlpState mlp;
  MoeState moe;
  // Filled by forward: tokens per expert, and this micro-batch's share of the balance loss.
  std::vector<int64_t> expert_load;
  double balance_loss = 0;

  Arena& kept(bool recomputed) const { return recomputed ? *scratch : *saved; }
};

enum class PhaseKind { kCompute, kCommunication };

class Phase {
 public:
  virtual ~Phase() = default;
  virtual PhaseKind kind() const = 0;
  virtual std::string_view name() const = 0;
  virtual void forward(const Pass& pass, BlockState& s) const = 0;
  virtual void input_gradient(const Pass& pass, BlockState& s) const = 0;
  // Adds to pass.gradients. Needs only what input_gradient left in the state.
  virtual void weight_gradient(const Pass& pass, BlockState& s) const = 0;
};

}  // namespace rorqual
