#pragma once

#include <cstdint>

#if defined(TAPECACHE_HAS_ONEDNN)
#include <omp.h>
#include <oneapi/dnnl/dnnl.hpp>
#endif

#include "tapecache/core/dtype.h"

namespace tapecache::bench {

#if defined(TAPECACHE_HAS_ONEDNN)

inline constexpr bool kHasOneDnn = true;

/// C = op(A) op(B) in f32, of f32 or bf16 factors.
class OneDnnProduct {
 public:
  OneDnnProduct(std::int64_t m, std::int64_t n, std::int64_t k, bool transpose_a, bool transpose_b, int threads)
      : m_(m), n_(n), k_(k), transpose_a_(transpose_a), transpose_b_(transpose_b) {
    omp_set_num_threads(threads);
    using Memory = dnnl::memory;
    constexpr auto kBf16 = Memory::data_type::bf16;
    const Memory::desc a({m, k}, kBf16, transpose_a ? Memory::dims{1, m} : Memory::dims{k, 1});
    const Memory::desc b({k, n}, kBf16, transpose_b ? Memory::dims{1, k} : Memory::dims{n, 1});
    const Memory::desc c({m, n}, Memory::data_type::f32, {n, 1});
    a_ = Memory(a, engine_, nullptr);
    b_ = Memory(b, engine_, nullptr);
    c_ = Memory(c, engine_, nullptr);
    try {
#if DNNL_VERSION_MAJOR >= 3
      product_ = dnnl::matmul(dnnl::matmul::primitive_desc(engine_, a, b, c));
#else
      product_ = dnnl::matmul(dnnl::matmul::primitive_desc(dnnl::matmul::desc(a, b, c), engine_));
#endif
    } catch (const dnnl::error&) {
      has_bf16_ = false;  // this processor cannot
    }
  }

  void run(const float* a, const float* b, float* c) {
    dnnl_sgemm(transpose_a_ ? 'T' : 'N', transpose_b_ ? 'T' : 'N', m_, n_, k_, 1, a, transpose_a_ ? m_ : k_, b,
               transpose_b_ ? k_ : n_, 0, c, n_);
  }
  void run(const BFloat16* a, const BFloat16* b, float* c) {
    if (!has_bf16_) return;
    a_.set_data_handle(const_cast<BFloat16*>(a));
    b_.set_data_handle(const_cast<BFloat16*>(b));
    c_.set_data_handle(c);
    product_.execute(stream_, {{DNNL_ARG_SRC, a_}, {DNNL_ARG_WEIGHTS, b_}, {DNNL_ARG_DST, c_}});
    stream_.wait();
  }
  bool has_bf16() const { return has_bf16_; }

 private:
  std::int64_t m_, n_, k_;
  bool transpose_a_, transpose_b_, has_bf16_ = true;
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  dnnl::memory a_, b_, c_;
  dnnl::matmul product_;
};

#else

inline constexpr bool kHasOneDnn = false;

struct OneDnnProduct {
  OneDnnProduct(std::int64_t, std::int64_t, std::int64_t, bool, bool, int) {}
  template <class T>
  void run(const T*, const T*, float*) {}
  bool has_bf16() const { return false; }
};

#endif

}  // namespace tapecache::bench
