// oneDNN's bf16 product with prepacked weights, the peer of our products. The library is loaded while the benchmark runs and
// never linked; where it or its headers are missing, there is no peer.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "tensor/tensor.h"

namespace rorqual {

class OneDnn {
 public:
  // Null where it cannot be had; then `why` says what is missing and what to do.
  static std::shared_ptr<OneDnn> load(std::string& why);
  ~OneDnn();

  std::string version() const;  // "2.6.3"
  // Threads of every call from here on (its OpenMP's); true if that is what it will use.
  bool set_threads(int threads);

  struct Library;

 private:
  OneDnn();
  friend class OneDnnProduct;
  std::unique_ptr<Library> library_;
};

// c = a · wᵀ; a [m, k] BF16, w [n, k] BF16 reordered once to the layout that oneDNN chooses, c [m, n] F32, all contiguous.
// Created for the threads set before.
class OneDnnProduct {
 public:
  enum class Primitive { kMatmul, kInnerProduct };
  OneDnnProduct(std::shared_ptr<OneDnn> onednn, Primitive primitive, const Tensor& a, const Tensor& c);
  ~OneDnnProduct();
  OneDnnProduct(const OneDnnProduct&) = delete;
  OneDnnProduct& operator=(const OneDnnProduct&) = delete;

  // A copy of the weight in oneDNN's layout; returns its number.
  int64_t add_weight(const Tensor& w);
  void run(int64_t weight);
  std::string name() const;  // "matmul brg:avx512_core_bf16"

 private:
  struct Primitives;
  std::shared_ptr<OneDnn> onednn_;
  std::unique_ptr<Primitives> p_;
};

}  // namespace rorqual
