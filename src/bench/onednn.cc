#include "bench/onednn.h"

#include <dlfcn.h>

#include <vector>

#include "base/error.h"
#include "tensor/arena.h"

#if __has_include(<oneapi/dnnl/dnnl.h>)
#include <oneapi/dnnl/dnnl.h>
#if DNNL_VERSION_MAJOR == 2
#define RORQUAL_ONEDNN_HEADERS 1
#endif
#endif

#ifdef RORQUAL_ONEDNN_HEADERS

// Every function that is called, to be looked up by name.
#define RORQUAL_ONEDNN_FUNCTIONS(f)                                                                              \
  f(dnnl_version) f(dnnl_engine_create) f(dnnl_engine_destroy) f(dnnl_stream_create) f(dnnl_stream_destroy)      \
      f(dnnl_stream_wait) f(dnnl_memory_desc_init_by_tag) f(dnnl_memory_create) f(dnnl_memory_destroy)           \
          f(dnnl_memory_desc_get_size) f(dnnl_matmul_desc_init) f(dnnl_inner_product_forward_desc_init)          \
              f(dnnl_primitive_desc_create) f(dnnl_primitive_desc_destroy) f(dnnl_primitive_desc_query)          \
                  f(dnnl_primitive_desc_query_md) f(dnnl_reorder_primitive_desc_create) f(dnnl_primitive_create) \
                      f(dnnl_primitive_destroy) f(dnnl_primitive_execute)

namespace rorqual {

struct OneDnn::Library {
  void* handle = nullptr;
  void (*omp_set_num_threads)(int) = nullptr;
  int (*omp_get_max_threads)() = nullptr;
#define RORQUAL_MEMBER(name) decltype(&::name) name = nullptr;
  RORQUAL_ONEDNN_FUNCTIONS(RORQUAL_MEMBER)
#undef RORQUAL_MEMBER
  dnnl_engine_t engine = nullptr;
  dnnl_stream_t stream = nullptr;

  template <class Function>
  bool find(const char* name, Function& function) {
    function = reinterpret_cast<Function>(::dlsym(handle, name));
    return function != nullptr;
  }
  // The first name that is missing, or none.
  const char* find_all() {
#define RORQUAL_FIND(name) \
  if (!find(#name, name)) return #name;
    RORQUAL_ONEDNN_FUNCTIONS(RORQUAL_FIND)
#undef RORQUAL_FIND
    // Through the library's own dependencies: the OpenMP that it runs on.
    if (!find("omp_set_num_threads", omp_set_num_threads)) return "omp_set_num_threads";
    if (!find("omp_get_max_threads", omp_get_max_threads)) return "omp_get_max_threads";
    return nullptr;
  }
};

namespace {
void check(dnnl_status_t status, const char* what) {
  if (status != dnnl_success) fail("oneDNN: {} fails with status {}", what, static_cast<int>(status));
}
}  // namespace

OneDnn::OneDnn() : library_(std::make_unique<Library>()) {}

OneDnn::~OneDnn() {
  if (library_->stream) library_->dnnl_stream_destroy(library_->stream);
  if (library_->engine) library_->dnnl_engine_destroy(library_->engine);
  // Stays loaded: the threads of its OpenMP outlive every call.
}

std::shared_ptr<OneDnn> OneDnn::load(std::string& why) {
  std::shared_ptr<OneDnn> onednn(new OneDnn);
  Library& l = *onednn->library_;
  l.handle = ::dlopen("libdnnl.so.2", RTLD_NOW | RTLD_LOCAL);
  if (!l.handle) {
    why = "oneDNN is not there (libdnnl.so.2; Debian's libdnnl2): nothing to compare with";
    return nullptr;
  }
  if (const char* missing = l.find_all()) {
    why = fmt::format("libdnnl.so.2 has no {}: nothing to compare with", missing);
    return nullptr;
  }
  check(l.dnnl_engine_create(&l.engine, dnnl_cpu, 0), "creating an engine");
  check(l.dnnl_stream_create(&l.stream, l.engine, dnnl_stream_default_flags), "creating a stream");
  return onednn;
}

std::string OneDnn::version() const {
  const dnnl_version_t* v = library_->dnnl_version();
  return fmt::format("{}.{}.{}", v->major, v->minor, v->patch);
}

bool OneDnn::set_threads(int threads) {
  library_->omp_set_num_threads(threads);
  return library_->omp_get_max_threads() == threads;
}

struct OneDnnProduct::Primitives {
  const char* kind = "";
  dnnl_memory_desc_t plain_weight{};
  dnnl_primitive_desc_t desc = nullptr;
  dnnl_primitive_t product = nullptr;
  dnnl_memory_t a = nullptr, c = nullptr;
  Arena arena{nullptr};  // weights lie in memory of the same kind as ours
  std::vector<dnnl_memory_t> weights;
};

OneDnnProduct::OneDnnProduct(std::shared_ptr<OneDnn> onednn, Primitive primitive, const Tensor& a, const Tensor& c)
    : onednn_(std::move(onednn)), p_(std::make_unique<Primitives>()) {
  CHECK(a.contiguous() && c.contiguous() && a.dtype == DType::kBF16 && c.dtype == DType::kF32 && a.rows == c.rows);
  const OneDnn::Library& l = *onednn_->library_;
  const bool matmul = primitive == Primitive::kMatmul;
  p_->kind = matmul ? "matmul" : "inner product";
  dnnl_memory_desc_t a_md, w_md, c_md;
  const dnnl_dims_t a_dims = {a.rows, a.cols}, c_dims = {c.rows, c.cols};
  // A matmul's weight is [k, n], ours [n, k]: the same bytes read with the axes swapped.
  const dnnl_dims_t w_dims = {matmul ? a.cols : c.cols, matmul ? c.cols : a.cols};
  check(l.dnnl_memory_desc_init_by_tag(&a_md, 2, a_dims, dnnl_bf16, dnnl_ab), "describing a");
  check(l.dnnl_memory_desc_init_by_tag(&c_md, 2, c_dims, dnnl_f32, dnnl_ab), "describing c");
  check(l.dnnl_memory_desc_init_by_tag(&w_md, 2, w_dims, dnnl_bf16, dnnl_format_tag_any), "describing the weight");
  check(l.dnnl_memory_desc_init_by_tag(&p_->plain_weight, 2, w_dims, dnnl_bf16, matmul ? dnnl_ba : dnnl_ab),
        "describing the plain weight");
  if (matmul) {
    dnnl_matmul_desc_t desc;
    check(l.dnnl_matmul_desc_init(&desc, &a_md, &w_md, nullptr, &c_md), "describing a matmul");
    check(l.dnnl_primitive_desc_create(&p_->desc, &desc, nullptr, l.engine, nullptr), "planning a matmul");
  } else {
    dnnl_inner_product_desc_t desc;
    check(l.dnnl_inner_product_forward_desc_init(&desc, dnnl_forward_inference, &a_md, &w_md, nullptr, &c_md),
          "describing an inner product");
    check(l.dnnl_primitive_desc_create(&p_->desc, &desc, nullptr, l.engine, nullptr), "planning an inner product");
  }
  check(l.dnnl_primitive_create(&p_->product, p_->desc), "creating a product");
  check(l.dnnl_memory_create(&p_->a, &a_md, l.engine, a.data), "wrapping a");
  check(l.dnnl_memory_create(&p_->c, &c_md, l.engine, c.data), "wrapping c");
}

OneDnnProduct::~OneDnnProduct() {
  const OneDnn::Library& l = *onednn_->library_;
  for (dnnl_memory_t w : p_->weights) l.dnnl_memory_destroy(w);
  if (p_->c) l.dnnl_memory_destroy(p_->c);
  if (p_->a) l.dnnl_memory_destroy(p_->a);
  if (p_->product) l.dnnl_primitive_destroy(p_->product);
  if (p_->desc) l.dnnl_primitive_desc_destroy(p_->desc);
}

int64_t OneDnnProduct::add_weight(const Tensor& w) {
  CHECK(w.contiguous() && w.dtype == DType::kBF16);
  const OneDnn::Library& l = *onednn_->library_;
  const dnnl_memory_desc_t* packed = l.dnnl_primitive_desc_query_md(p_->desc, dnnl_query_weights_md, 0);
  dnnl_memory_t from = nullptr, to = nullptr;
  check(l.dnnl_memory_create(&from, &p_->plain_weight, l.engine, w.data), "wrapping a weight");
  void* bytes = p_->arena.bytes(MemoryClass::kPackedWeights, static_cast<int64_t>(l.dnnl_memory_desc_get_size(packed)));
  check(l.dnnl_memory_create(&to, packed, l.engine, bytes), "wrapping a packed weight");
  p_->weights.push_back(to);
  dnnl_primitive_desc_t desc = nullptr;
  dnnl_primitive_t reorder = nullptr;
  check(l.dnnl_reorder_primitive_desc_create(&desc, &p_->plain_weight, l.engine, packed, l.engine, nullptr),
        "planning to pack");
  check(l.dnnl_primitive_create(&reorder, desc), "creating a reorder");
  const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
  check(l.dnnl_primitive_execute(reorder, l.stream, 2, args), "packing a weight");
  check(l.dnnl_stream_wait(l.stream), "waiting");
  l.dnnl_primitive_destroy(reorder);
  l.dnnl_primitive_desc_destroy(desc);
  l.dnnl_memory_destroy(from);
  return static_cast<int64_t>(p_->weights.size()) - 1;
}

void OneDnnProduct::run(int64_t weight) {
  const OneDnn::Library& l = *onednn_->library_;
  const dnnl_exec_arg_t args[] = {
      {DNNL_ARG_SRC, p_->a}, {DNNL_ARG_WEIGHTS, p_->weights[static_cast<size_t>(weight)]}, {DNNL_ARG_DST, p_->c}};
  check(l.dnnl_primitive_execute(p_->product, l.stream, 3, args), "a product");
  check(l.dnnl_stream_wait(l.stream), "waiting");
}

std::string OneDnnProduct::name() const {
  const char* implementation = "";
  check(onednn_->library_->dnnl_primitive_desc_query(p_->desc, dnnl_query_impl_info_str, 0, &implementation),
        "asking its name");
  return fmt::format("{} {}", p_->kind, implementation);
}

}  // namespace rorqual

#else

namespace rorqual {

struct OneDnn::Library {};
struct OneDnnProduct::Primitives {};
OneDnn::OneDnn() = default;
OneDnn::~OneDnn() = default;
std::shared_ptr<OneDnn> OneDnn::load(std::string& why) {
  why = "this program was built without the headers of oneDNN 2 (Debian's libdnnl-dev): nothing to compare with";
  return nullptr;
}
std::string OneDnn::version() const {
  return {};
}
bool OneDnn::set_threads(int) {
  return false;
}
OneDnnProduct::OneDnnProduct(std::shared_ptr<OneDnn>, Primitive, const Tensor&, const Tensor&) {
  CHECK(false, "no oneDNN");
}
OneDnnProduct::~OneDnnProduct() = default;
int64_t OneDnnProduct::add_weight(const Tensor&) {
  return 0;
}
void OneDnnProduct::run(int64_t) {}
std::string OneDnnProduct::name() const {
  return {};
}

}  // namespace rorqual

#endif
