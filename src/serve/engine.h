// Many requests at once over one model: continuous batching over a paged cache, with chunked prefill, a prefix cache,
// preemption, and drafts by the MTP module (report §2.2, §3.4). A request's tokens are a function of the model, the prompt and
// the request alone: not of what else is in the batch, nor of caching, chunking, preemption or drafting.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "serve/constraint.h"
#include "serve/loaded_model.h"
#include "serve/sampler.h"

namespace rorqual {

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;  // nats, of the model's distribution before penalties, bias and temperature
};

struct GeneratedToken {
  int32_t token = 0;
  float logprob = 0;              // filled when the request asks for logprobs
  std::vector<TokenLogprob> top;  // most likely first
};

enum class FinishReason { kStop, kLength, kContext, kCancelled, kFailed };

struct TokenUsage {
  int64_t prompt_tokens = 0, cached_prompt_tokens = 0, generated_tokens = 0;
  int64_t drafted_tokens = 0, accepted_tokens = 0;
};

// What a request hears, in order. The last event has `finish`; nothing follows it.
struct EngineEvent {
  std::vector<GeneratedToken> tokens;         // generated since the last event; an end token or stop id is left out
  std::string text;                           // what may be shown: valid UTF-8, nothing that could begin a stop string
  std::vector<GeneratedToken> prompt_tokens;  // with prompt_logprobs, once: of every prompt token after the first
  std::optional<FinishReason> finish;
  std::string error;  // with kFailed: what a client may read
  TokenUsage usage;   // so far
};

struct EngineRequest {
  std::vector<int32_t> prompt;  // with its BOS; not empty
  SamplingSettings sampling;
  int64_t max_tokens = 128;                // 0: the prompt alone, for its logprobs
  std::vector<std::string> stop;           // ends before the first of these in the text
  std::vector<int32_t> stop_ids;           // beside the model's end token
  bool ignore_end = false;                 // go on after the end token
  int64_t logprobs = -1;                   // alternatives for each token; -1: none
  bool prompt_logprobs = false;            // score the prompt too, with as many alternatives
  std::unique_ptr<Constraint> constraint;  // or none
  // Called on the engine's thread, never after the last event; must not block or throw.
  std::function<void(EngineEvent&&)> on_event;
};

struct EngineSettings {
  int64_t cache_tokens = 0;              // room of the paged cache; 0: a quarter of the free memory, at least one context and
                                         // at most max_running of them
  int64_t batch_tokens = 512;            // rows of one step: decoding rows first (all of them), prompts fill the rest
  int64_t max_running = 256;             // sequences in one step
  int64_t max_waiting_tokens = 1 << 20;  // prompt and output tokens admitted but not running; beyond: EngineFull
  bool prefix_cache = true;
  int64_t draft_tokens = 0;  // by MTP modules, at most as many as the model has
};

// Admission refused for now: try again after `retry_after`.
class EngineFull : public std::runtime_error {
 public:
  explicit EngineFull(std::chrono::seconds wait) : std::runtime_error("the engine is full"), retry_after(wait) {}
  std::chrono::seconds retry_after;
};

struct EngineStats {
  int64_t running = 0, waiting = 0;
  int64_t cache_blocks = 0, cache_blocks_used = 0;  // used: by running sequences
  int64_t prefix_hit_tokens = 0, prefix_asked_tokens = 0;
  int64_t prompt_tokens = 0, generated_tokens = 0, drafted_tokens = 0, accepted_tokens = 0;
  int64_t preemptions = 0, steps = 0, finished = 0, cancelled = 0;
};

// What an engine runs: a loaded model, or one in training.
struct EngineModel {
  const Model& model;
  const Tokenizer& tokenizer;
  Workspace& work;
  const Stream& stream;
};

class Engine {
 public:
  // The model outlives the engine, and nobody else uses its workspace and threads meanwhile. Errors (usage): settings out of
  // range, a cache larger than memory.
  Engine(LoadedModel& model, const EngineSettings& settings);
  Engine(const EngineModel& model, const EngineSettings& settings);
  ~Engine();  // ends what runs with kCancelled
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // From any thread. Errors (usage): an empty prompt, one that leaves no room in the context or the cache, settings out of
  // range. Throws EngineFull.
  uint64_t submit(EngineRequest request);
  // The request ends with kCancelled within one step, and its blocks are free then. Unknown or finished ids are ignored.
  void cancel(uint64_t id);

  int64_t context_tokens() const;  // prompt and output together, at most
  EngineStats stats() const;
  const LoadedModel& model() const;  // of the first constructor

 private:
  class Impl;
  const LoadedModel* loaded_ = nullptr;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rorqual
