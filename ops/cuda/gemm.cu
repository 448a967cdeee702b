#include <bit>
#include <compare>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>

#include <cublasLt.h>

#include "tapecache/core/device.h"
#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/launch.cuh"
#include "tapecache/ops/cuda/put.cuh"
#include "tapecache/ops/cuda/scratch.h"
#include "tapecache/ops/cuda/unary_functions.cuh"

namespace tapecache::kernels::cuda {

namespace {

constexpr std::size_t kMostWorkspace = 32 << 20;
constexpr std::uint32_t kMostAlignment = 256;
constexpr std::size_t kBiasAlignment = 16;

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) throw_failure(what, cublasLtGetStatusString(status));
}

template <class T>
constexpr cudaDataType_t kDataType = std::is_same_v<T, double>     ? CUDA_R_64F
                                     : std::is_same_v<T, BFloat16> ? CUDA_R_16BF
                                     : std::is_same_v<T, Float16>  ? CUDA_R_16F
                                                                   : CUDA_R_32F;

/// What products of In are summed in.
template <class In>
using SumType = std::conditional_t<std::is_same_v<In, double>, double, float>;

template <class T>
cublasComputeType_t compute_type() {
  if (std::is_same_v<T, double>) return CUBLAS_COMPUTE_64F;
  return std::is_same_v<T, float> && tf32_allowed() ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

std::uint32_t alignment_of(const void* p) {
  const auto bits = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(p)) | kMostAlignment;
  return 1u << std::countr_zero(bits);
}

/// What the choice of an algorithm depends on.
struct Key {
  std::int64_t batch, m, n, k, stride_a, stride_b, stride_c, row_stride_a, row_stride_b, row_stride_c;
  bool transpose_a, transpose_b, bias, adds_to_c;
  cudaDataType_t in, out;
  cublasComputeType_t compute;
  std::uint32_t align_a, align_b, align_c, align_d;

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
  check(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof(T)), "asking for an algorithm");
}

/// A row-major matrix, as the column-major one that its memory is too.
Layout layout_of(cudaDataType_t type, std::int64_t rows, std::int64_t cols, std::int64_t row_stride, std::int64_t batch,
                 std::int64_t stride) {
  Layout layout;
  check(cublasLtMatrixLayoutCreate(layout.out(), type, static_cast<std::uint64_t>(cols), static_cast<std::uint64_t>(rows),
                                   row_stride),
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
  bool adds_bias = false;  ///< whether it does, where it is asked to
};

class Products {
 public:
  Products() { check(cublasLtCreate(&handle_), "starting cuBLASLt"); }

  /// D = op(A) op(B) + βC + bias; bias may be null. Returns whether the bias was added.
  template <class In, class Out>
  bool multiply(const Gemm& g, const In* a, const In* b, const Out* bias, SumType<In> beta, const Out* c, Out* d) {
    const Key key{g.batch, g.m, g.n, g.k, g.stride_a, g.stride_b, g.stride_c, g.row_stride_a(), g.row_stride_b(),
                  g.row_stride_c(), g.transpose_a, g.transpose_b, bias && alignment_of(bias) >= kBiasAlignment, beta != 0,
                  kDataType<In>, kDataType<Out>, compute_type<In>(), alignment_of(a), alignment_of(b), alignment_of(c), alignment_of(d)};
    const std::lock_guard lock(mutex_);
    auto found = plans_.find(key);
    if (found == plans_.end()) found = plans_.emplace(key, plan(key)).first;
    const Plan& p = found->second;
    if (p.adds_bias) set(p.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    const Scratch<std::byte> workspace(static_cast<std::int64_t>(p.workspace));
    const SumType<In> alpha{1};
    check(cublasLtMatmul(handle_, p.operation.get(), &alpha, b, p.b.get(), a, p.a.get(), &beta, c, p.c.get(), d, p.c.get(),
                         &p.algorithm, workspace.data(), p.workspace, current_stream()),
          ("the product of " + sizes(key)).c_str());
    return p.adds_bias;
  }

 private:
  static std::string sizes(const Key& key) {
    return std::to_string(key.batch) + " times [" + std::to_string(key.m) + ", " + std::to_string(key.k) + "] and [" +
           std::to_string(key.k) + ", " + std::to_string(key.n) + "]";
  }

  Plan plan(const Key& key) {
    Plan p;
    if (key.bias && try_plan(key, true, p)) return p;
    if (!try_plan(key, false, p)) throw_failure("the product of " + sizes(key), "cuBLASLt has no algorithm for it");
    return p;
  }

  bool try_plan(const Key& key, bool with_bias, Plan& p) {
    p = Plan{};
    p.adds_bias = with_bias;
    const cudaDataType_t sum = key.compute == CUBLAS_COMPUTE_64F ? CUDA_R_64F : CUDA_R_32F;
    check(cublasLtMatmulDescCreate(p.operation.out(), key.compute, sum), "describing a product");
    set(p.operation, CUBLASLT_MATMUL_DESC_TRANSA, key.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(p.operation, CUBLASLT_MATMUL_DESC_TRANSB, key.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (with_bias) set(p.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    const std::int64_t rows_a = key.transpose_a ? key.k : key.m, cols_a = key.transpose_a ? key.m : key.k;
    const std::int64_t rows_b = key.transpose_b ? key.n : key.k, cols_b = key.transpose_b ? key.k : key.n;
    p.a = layout_of(key.in, rows_a, cols_a, key.row_stride_a, key.batch, key.stride_a);
    p.b = layout_of(key.in, rows_b, cols_b, key.row_stride_b, key.batch, key.stride_b);
    p.c = layout_of(key.out, key.m, key.n, key.row_stride_c, key.batch, key.stride_c);

    Preference preference;
    check(cublasLtMatmulPreferenceCreate(preference.out()), "asking for an algorithm");
    set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kMostWorkspace);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.align_b);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.align_a);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.align_c);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.align_d);
    cublasLtMatmulHeuristicResult_t best{};
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle_, p.operation.get(), p.b.get(), p.a.get(), p.c.get(),
                                                                 p.c.get(), preference.get(), 1, &best, &found);
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
Products& products() {
  static std::mutex mutex;
  static auto* all = new std::map<int, std::unique_ptr<Products>>;
  const std::lock_guard lock(mutex);
  std::unique_ptr<Products>& one = (*all)[current_device()];
  if (!one) one = std::make_unique<Products>();
  return *one;
}

/// An element of [batch, m, n] as C is stored.
struct Places {
  std::int64_t m, n, stride, row_stride;

  explicit Places(const Gemm& g) : m(g.m), n(g.n), stride(g.stride_c), row_stride(g.row_stride_c()) {}
  __device__ std::int64_t at(std::int64_t i) const {
    return i / n / m * stride + i / n % m * row_stride + i % n;
  }
};

/// C = residual + bias, or C += bias. Either may be null.
template <class T, class Out>
__global__ void add_bias_kernel(std::int64_t count, Places places, const T* bias, const T* residual, Out* c, Mode mode) {
  for (std::int64_t i = thread_index(); i < count; i += thread_count()) {
    const std::int64_t at = places.at(i);
    T value = bias ? bias[i % places.n] : T{0};
    if (residual) value += residual[at];
    put(c[at], value, mode);
  }
}

template <class T, class Out>
void add_bias(const Gemm& g, const T* bias, const T* residual, Out* c, Mode mode) {
  const std::int64_t count = g.batch * g.m * g.n;
  launch(add_bias_kernel<T, Out>, grid_for(count), count, Places(g), bias, residual, c, mode);
}

template <class In, class T>
void multiply(const Gemm& g, const In* a, const In* b, const T* bias, const T* residual, T* c, Mode mode) {
  if (g.batch <= 0 || g.m <= 0 || g.n <= 0) return;
  if (g.k <= 0) {
    if (mode == Mode::kWrite || bias) add_bias(g, bias, mode == Mode::kWrite ? residual : nullptr, c, mode);
    return;
  }
  const bool adds = mode == Mode::kAccumulate || residual;
  const T* before = mode == Mode::kWrite && residual ? residual : c;
  const bool bias_added = products().multiply(g, a, b, bias, adds ? T{1} : T{0}, before, c);
  if (bias && !bias_added) add_bias<T>(g, bias, nullptr, c, Mode::kAccumulate);
}

template <class T, class Function>
__global__ void times_derivative_kernel(std::int64_t count, Places places, Function function, const T* at, T* c) {
  for (std::int64_t i = thread_index(); i < count; i += thread_count()) c[places.at(i)] *= function.derivative(at[i]);
}

/// f of a stored matrix, gaps between its rows included.
template <class T>
class Applied {
 public:
  Applied(UnaryOp op, std::int64_t rows, std::int64_t cols, std::int64_t row_stride, const T* x)
      : values_(rows > 0 ? (rows - 1) * row_stride + cols : 0) {
    unary<T>(op, 0, 0, rows > 0 ? (rows - 1) * row_stride + cols : 0, x, values_.data());
  }
  const T* data() const { return values_.data(); }

 private:
  Scratch<T> values_;
};

}  // namespace

template <class T>
void gemm(const Gemm& g, const T* a, const T* b, const T* bias, const T* residual, T* c, Mode mode) {
  multiply(g, a, b, bias, residual, c, mode);
}

template <class Low>
void low_gemm(const Gemm& g, const Low* a, const Low* b, const float* bias, const float* residual, float* c, Mode mode) {
  multiply(g, a, b, bias, residual, c, mode);
}

// cuBLASLt takes a bias in the type of the result.
template <class Low>
void low_gemm_rounded(const Gemm& g, const Low* a, const Low* b, const float* bias, Low* c, Mode mode) {
  if (g.batch <= 0 || g.m <= 0 || g.n <= 0) return;
  if (g.k <= 0) {
    if (mode == Mode::kWrite || bias) add_bias<float, Low>(g, bias, nullptr, c, mode);
    return;
  }
  const Scratch<Low> rounded(bias ? g.n : 0);
  if (bias) low_round(g.n, bias, rounded.data());
  const float beta = mode == Mode::kAccumulate ? 1.0f : 0.0f;
  const bool bias_added = products().multiply(g, a, b, bias ? rounded.data() : nullptr, beta, c, c);
  if (bias && !bias_added) add_bias<float, Low>(g, bias, nullptr, c, Mode::kAccumulate);
}

template <class T>
void activated_gemm(const Gemm& g, UnaryOp op, Activated place, const T* a, const T* b, const T* bias,
                    const T* residual, const T* at, T* c, Mode mode) {
  if (place == Activated::kLeft) {
    const Applied<T> left(op, g.transpose_a ? g.k : g.m, g.transpose_a ? g.m : g.k, g.row_stride_a(), a);
    multiply(g, left.data(), b, bias, residual, c, mode);
  } else if (place == Activated::kRight) {
    const Applied<T> right(op, g.transpose_b ? g.n : g.k, g.transpose_b ? g.k : g.n, g.row_stride_b(), b);
    multiply(g, a, right.data(), bias, residual, c, mode);
  } else {
    multiply(g, a, b, bias, residual, c, mode);
    const std::int64_t count = g.m * g.n;
    with_function<T>(op, 0, 0, [&]<class Function>(const Function& function) {
      launch(times_derivative_kernel<T, Function>, grid_for(count), count, Places(g), function, at, c);
    });
  }
}

template void gemm(const Gemm&, const float*, const float*, const float*, const float*, float*, Mode);
template void gemm(const Gemm&, const double*, const double*, const double*, const double*, double*, Mode);
template void low_gemm(const Gemm&, const BFloat16*, const BFloat16*, const float*, const float*, float*, Mode);
template void low_gemm(const Gemm&, const Float16*, const Float16*, const float*, const float*, float*, Mode);
template void low_gemm_rounded(const Gemm&, const BFloat16*, const BFloat16*, const float*, BFloat16*, Mode);
template void low_gemm_rounded(const Gemm&, const Float16*, const Float16*, const float*, Float16*, Mode);
template void activated_gemm(const Gemm&, UnaryOp, Activated, const float*, const float*, const float*, const float*,
                             const float*, float*, Mode);
template void activated_gemm(const Gemm&, UnaryOp, Activated, const double*, const double*, const double*,
                             const double*, const double*, double*, Mode);

}  // namespace tapecache::kernels::cuda
