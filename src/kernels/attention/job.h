// The work that a vector kernel gets at a time, as plain pointers: no shared inline code is compiled with an ISA's flags.
#pragma once

#include <cstdint>

namespace rorqual::attention {

// Sizes of a job's blocks. They are part of the order of sums: changing one changes bits.
inline constexpr int64_t kQueryChunk = 256;   // forward: query rows per job at most
inline constexpr int64_t kForwardKeys = 256;  // forward: keys per step of the running softmax
inline constexpr int64_t kQueryGroup = 24;    // forward: query rows whose scores are held at a time
inline constexpr int64_t kBackwardBlock = 64;
inline constexpr int64_t kWidestPanel = 64;  // columns of the widest packed panel of any ISA

// Rows of BF16 or of float, by Job's `bf16`. Strides in elements.
struct Rows {
  void* data = nullptr;
  int64_t stride = 0;
};

struct JobShape {
  bool bf16 = false;
  int64_t nope = 0, rope = 0, v_dim = 0;
  float scale = 0, scale_log2e = 0;
  int64_t queries = 0, keys = 0;
  // Query i sees keys up to first_limit + i, from segment_start[i] - k_begin on (null: from 0 on).
  int64_t first_limit = 0;
  const int64_t* segment_start = nullptr;
  int64_t k_begin = 0;
  int64_t dim() const { return nope + rope; }
};

// Query rows of one head against a sequence's keys. Every pointer is at the job's first row and at its head.
struct ForwardJob {
  JobShape shape;
  Rows q, k, k_rope, v, o;
  float* lse = nullptr;  // null: not wanted
  float* scratch = nullptr;
};

// One key head of one sequence, with the `group` query heads that share it.
struct BackwardJob {
  JobShape shape;
  int64_t group = 1;
  Rows q, k, k_rope, v, o, d_o, d_q, d_k, d_v;
  const float* lse = nullptr;
  int64_t lse_stride = 0;     // from head to head
  float* d_k_rope = nullptr;  // [keys, rope], this key head's part
  float* scratch = nullptr;
};

inline constexpr int64_t kPage = 64;  // paged: keys per step of the running softmax

// Query rows of one sequence with some of the query heads that share a key head, against pages.
struct PagedJob {
  bool bf16 = false;
  int64_t qk_dim = 0, v_dim = 0;
  float scale_log2e = 0;
  int64_t queries = 0, heads = 0;  // rows and query heads
  int64_t position = 0;            // of the first query
  const int32_t* pages = nullptr;
  Rows q, o;                  // at the first query's first head; the next head follows
  Rows k, v;                  // at the head's first column of the cache's first row
  bool value_in_key = false;  // the value is the key's leading columns
  float* scratch = nullptr;
};

// Floats of scratch that a job needs.
int64_t paged_scratch(const PagedJob& job);
int64_t forward_scratch(const JobShape& shape);
int64_t backward_scratch(const JobShape& shape);

int64_t amx_forward_scratch(const JobShape& shape);
int64_t amx_backward_scratch(const JobShape& shape);

// What an ISA file exports. Order of sums, for all of them: a score and dp sum over the head's elements ascending, fused; a
// row's softmax runs over blocks of kForwardKeys keys counted from the sequence's first key, in a block lane by lane over
// ascending vectors and then across the lanes in halves; o, dq sum over keys ascending, dk and dv over queries ascending, heads
// ascending, all fused.
// all fused. AMX: amx.inc.
void forward_amx(const ForwardJob& job);  // BF16 only, like the next three
void backward_amx(const BackwardJob& job);
void forward_amx_model(const ForwardJob& job);  // for tests: the same with tiles in software; needs AVX-512
void backward_amx_model(const BackwardJob& job);
void forward_avx512(const ForwardJob& job);
void backward_avx512(const BackwardJob& job);
void paged_avx512(const PagedJob& job);
void exp2_avx512(const float* x, float* y, int64_t n);  // for the test of its error
void forward_avx2(const ForwardJob& job);
void backward_avx2(const BackwardJob& job);
void paged_avx2(const PagedJob& job);
void exp2_avx2(const float* x, float* y, int64_t n);

}  // namespace rorqual::attention
