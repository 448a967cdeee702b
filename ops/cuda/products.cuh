#pragma once

#include <bit>
#include <compare>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>

#include <cublasLt.h>

#include "tapecache/core/device.h"
#include "tapecache/core/element.h"
#include "tapecache/ops/cuda/scratch.h"
#include "tapecache/ops/cuda/status.h"
#include "tapecache/ops/kernels/gemm.h"

/// Products of matrices by cuBLASLt, which chooses an algorithm once for each shape.
namespace tapecache::kernels::cuda {

constexpr std::size_t kMaxWorkspace = 32 << 20;
constexpr std::uint32_t kMaxAlignment = 256;
constexpr std::size_t kJoinedAlignment = 16;

inline void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) throw_failure(what, cublasLtGetStatusString(status));
}

template <class T>
constexpr cudaDataType_t kDataType = std::is_same_v<T, double>     ? CUDA_R_64F
                                     : std::is_same_v<T, BFloat16> ? CUDA_R_16BF
                                     : std::is_same_v<T, Float16>  ? CUDA_R_16F
                                                                   : CUDA_R_32F;

template <class T>
cublasComputeType_t compute_type() {
  if (std::is_same_v<T, double>) return CUBLAS_COMPUTE_64F;
  return std::is_same_v<T, float> && Device::tf32_allowed() ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

inline std::uint32_t alignment_of(const void* p) {
  const auto bits = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(p)) | kMaxAlignment;
  return 1u << std::countr_zero(bits);
}

/// Whether products do as their epilogue what they can: TAPECACHE_EPILOGUES=never has it done by kernels of its own, so
/// that both can be timed.
inline bool epilogues_allowed() {
  static const bool allowed = [] {
    const char* value = std::getenv("TAPECACHE_EPILOGUES");
    return !value || std::string(value) != "never";
  }();
  return allowed;
}

/// What is joined to a product as its epilogue: `vector` is added to each row of C (BIAS), or receives the sums of dY
/// over its rows (BGRADB, for the product dYᵀ X); C is multiplied by the derivative of GELU at `matrix` (DGELU), which
/// is laid out as C.
struct Joined {
  cublasLtEpilogue_t kind = CUBLASLT_EPILOGUE_DEFAULT;
  const void *vector = nullptr, *matrix = nullptr;

  bool is_possible(std::int64_t row_stride_c) const {
    return epilogues_allowed() && alignment_of(vector) >= kJoinedAlignment &&
           alignment_of(matrix) >= kJoinedAlignment && (!matrix || row_stride_c % 8 == 0);
  }
};

/// What the choice of an algorithm depends on.
struct Key {
  std::int64_t batch, m, n, k, stride_a, stride_b, stride_c, row_stride_a, row_stride_b, row_stride_c;
  bool transpose_a, transpose_b, adds_to_c;
  cublasLtEpilogue_t epilogue;
  cudaDataType_t in, out;
  cublasComputeType_t compute;
  std::uint32_t align_a, align_b, align_c, align_d, align_vector, align_matrix;

  /// What cuBLASLt may do with the parts of a sum that several blocks take: add them in the type of C, and to C in the
  /// order in which they come, is not for us. Of 16-bit operands (and TF32) whose k does not divide into whole tiles,
  /// its splitting of sums has been seen to lose the rest of k (versions 12.8 to 13.2).
  std::uint32_t reductions() const {
    const bool on_tensor_cores = in == CUDA_R_16BF || in == CUDA_R_16F || compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    constexpr std::int64_t kWholeTiles = 64;
    return on_tensor_cores && k % kWholeTiles != 0 ? CUBLASLT_REDUCTION_SCHEME_NONE
                                                   : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  }

  auto operator<=>(const Key&) const = default;
};

/// A cuBLASLt object, which `Destroy` ends.
template <class Handle, cublasStatus_t (*Destroy)(Handle)>
class Owned {
 public:
  Owned() = default;
  Owned(Owned&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Owned() {
    if (handle_) Destroy(handle_);
  }
  Handle get() const { return handle_; }
  Handle* out() { return &handle_; }

 private:
  Handle handle_ = nullptr;
};

using Operation = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

template <class T>
void set(const Operation& operation, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  check(cublasLtMatmulDescSetAttribute(operation.get(), attribute, &value, sizeof(T)), "describing a product");
}

template <class T>
void set(const Layout& layout, cublasLtMatrixLayoutAttribute_t attribute, const T& value) {
  check(cublasLtMatrixLayoutSetAttribute(layout.get(), attribute, &value, sizeof(T)), "describing a matrix");
}

template <class T>
void set(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
  check(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof(T)),
        "asking for an algorithm");
}

/// A row-major matrix, as the column-major one that its memory is too.
inline Layout layout_of(cudaDataType_t type, std::int64_t rows, std::int64_t cols, std::int64_t row_stride,
                        std::int64_t batch, std::int64_t stride) {
  Layout layout;
  check(cublasLtMatrixLayoutCreate(layout.out(), type, static_cast<std::uint64_t>(cols),
                                   static_cast<std::uint64_t>(rows), row_stride),
        "describing a matrix");
  if (batch > 1) {
    set(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<std::int32_t>(batch));
    set(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, stride);
  }
  return layout;
}

/// A product with its algorithm. cuBLASLt sees Cᵀ = op(B)ᵀ op(A)ᵀ in column-major matrices.
struct Plan {
  Operation operation;
  Layout a, b, c;
  cublasLtMatmulAlgo_t algorithm{};
  std::size_t workspace = 0;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;

  void set_pointers(const Joined& joined) const {
    if (epilogue == CUBLASLT_EPILOGUE_DEFAULT) return;
    if (joined.vector) set(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, joined.vector);
    if (joined.matrix) set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, joined.matrix);
  }
};

class Products {
 public:
  Products() { check(cublasLtCreate(&handle_), "starting cuBLASLt"); }

  /// D = op(A) op(B) + βC. Returns whether what is joined was done too.
  template <class In, class Out>
  bool multiply(const Gemm& g, const In* a, const In* b, const Joined& joined, ComputedType<In> beta, const Out* c,
                Out* d) {
    const Key key{g.batch,
                  g.m,
                  g.n,
                  g.k,
                  g.stride_a,
                  g.stride_b,
                  g.stride_c,
                  g.row_stride_a(),
                  g.row_stride_b(),
                  g.row_stride_c(),
                  g.transpose_a,
                  g.transpose_b,
                  beta != 0,
                  joined.is_possible(g.row_stride_c()) ? joined.kind : CUBLASLT_EPILOGUE_DEFAULT,
                  kDataType<In>,
                  kDataType<Out>,
                  compute_type<In>(),
                  alignment_of(a),
                  alignment_of(b),
                  alignment_of(c),
                  alignment_of(d),
                  alignment_of(joined.vector),
                  alignment_of(joined.matrix)};
    const std::lock_guard lock(mutex_);
    auto found = plans_.find(key);
    if (found == plans_.end()) found = plans_.emplace(key, plan(key, joined)).first;
    Plan& p = found->second;
    const auto run = [&] {
      p.set_pointers(joined);
      const Scratch<std::byte> workspace(static_cast<std::int64_t>(p.workspace));
      const ComputedType<In> alpha{1};
      return cublasLtMatmul(handle_, p.operation.get(), &alpha, b, p.b.get(), a, p.a.get(), &beta, c, p.c.get(), d,
                            p.c.get(), &p.algorithm, workspace.data(), p.workspace, current_stream());
    };
    cublasStatus_t status = run();
    if ((status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) &&
        p.epilogue != CUBLASLT_EPILOGUE_DEFAULT) {  // an epilogue that was on offer, and then is not done
      p = plan_alone(key);
      status = run();
    }
    check(status, ("the product of " + sizes(key)).c_str());
    return p.epilogue == joined.kind;
  }

 private:
  static std::string sizes(const Key& key) {
    return std::to_string(key.batch) + " times [" + std::to_string(key.m) + ", " + std::to_string(key.k) + "] and [" +
           std::to_string(key.k) + ", " + std::to_string(key.n) + "]";
  }

  Plan plan(const Key& key, const Joined& joined) {
    Plan p;
    if (key.epilogue != CUBLASLT_EPILOGUE_DEFAULT && try_plan(key, key.epilogue, joined, p)) return p;
    return plan_alone(key);
  }

  /// Without an epilogue.
  Plan plan_alone(const Key& key) {
    Plan p;
    if (try_plan(key, CUBLASLT_EPILOGUE_DEFAULT, {}, p)) return p;
    throw_failure("the product of " + sizes(key), "cuBLASLt has no algorithm for it");
  }

  bool try_plan(const Key& key, cublasLtEpilogue_t epilogue, const Joined& joined, Plan& p) {
    p = Plan{};
    p.epilogue = epilogue;
    const cudaDataType_t sum = key.compute == CUBLAS_COMPUTE_64F ? CUDA_R_64F : CUDA_R_32F;
    check(cublasLtMatmulDescCreate(p.operation.out(), key.compute, sum), "describing a product");
    set(p.operation, CUBLASLT_MATMUL_DESC_TRANSA, key.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(p.operation, CUBLASLT_MATMUL_DESC_TRANSB, key.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(p.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
    if (joined.matrix) set(p.operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, key.row_stride_c);
    p.set_pointers(joined);
    const std::int64_t rows_a = key.transpose_a ? key.k : key.m, cols_a = key.transpose_a ? key.m : key.k;
    const std::int64_t rows_b = key.transpose_b ? key.n : key.k, cols_b = key.transpose_b ? key.k : key.n;
    p.a = layout_of(key.in, rows_a, cols_a, key.row_stride_a, key.batch, key.stride_a);
    p.b = layout_of(key.in, rows_b, cols_b, key.row_stride_b, key.batch, key.stride_b);
    p.c = layout_of(key.out, key.m, key.n, key.row_stride_c, key.batch, key.stride_c);

    Preference preference;
    check(cublasLtMatmulPreferenceCreate(preference.out()), "asking for an algorithm");
    set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kMaxWorkspace);
    set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, key.reductions());
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.align_b);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.align_a);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.align_c);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.align_d);
    cublasLtMatmulHeuristicResult_t best{};
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle_, p.operation.get(), p.b.get(), p.a.get(), p.c.get(), p.c.get(), preference.get(), 1, &best, &found);
    if (status != CUBLAS_STATUS_SUCCESS || found == 0 || best.state != CUBLAS_STATUS_SUCCESS) return false;
    p.algorithm = best.algo;
    p.workspace = best.workspaceSize;
    return true;
  }

  cublasLtHandle_t handle_ = nullptr;
  std::mutex mutex_;
  std::map<Key, Plan> plans_;
};

/// Of the current device; never destroyed.
inline Products& products() {
  static std::mutex mutex;
  static auto* all = new std::map<int, std::unique_ptr<Products>>;
  const std::lock_guard lock(mutex);
  std::unique_ptr<Products>& one = (*all)[current_device()];
  if (!one) one = std::make_unique<Products>();
  return *one;
}

}  // namespace tapecache::kernels::cuda
