#include "tapecache/core/element.h"
#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/launch.cuh"
#include "tapecache/ops/cuda/products.cuh"
#include "tapecache/ops/cuda/put.cuh"
#include "tapecache/ops/cuda/scratch.h"
#include "tapecache/ops/cuda/unary_functions.cuh"

namespace tapecache::kernels::cuda {

namespace {

/// An element of [batch, m, n] as C is stored.
struct Places {
  std::int64_t m, n, stride, row_stride;

  explicit Places(const Gemm& g) : m(g.m), n(g.n), stride(g.stride_c), row_stride(g.row_stride_c()) {}
  __device__ std::int64_t at(std::int64_t i) const { return i / n / m * stride + i / n % m * row_stride + i % n; }
};

/// C = residual + bias, or C += bias. Either may be null.
template <class T, class Out>
__global__ void add_bias_kernel(std::int64_t count, Places places, const T* bias, const T* residual, Out* c,
                                Mode mode) {
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
  const Joined joined = bias ? Joined{CUBLASLT_EPILOGUE_BIAS, bias} : Joined{};
  const bool done = products().multiply(g, a, b, joined, adds ? T{1} : T{0}, before, c);
  if (bias && !done) add_bias<T>(g, bias, nullptr, c, Mode::kAccumulate);
}

template <class T, class Function>
__global__ void times_derivative_kernel(std::int64_t count, Places places, Function function, const T* at, T* c) {
  for (std::int64_t i = thread_index(); i < count; i += thread_count()) {
    T& gradient = c[places.at(i)];
    gradient = chain(function, at[i], gradient);
  }
}

/// f of a stored matrix, gaps between its rows included.
template <class T>
class Applied {
 public:
  Applied(UnaryOp op, std::int64_t rows, std::int64_t cols, std::int64_t row_stride, const T* x)
      : values_(rows > 0 ? (rows - 1) * row_stride + cols : 0) {
    Provided<UnaryKernels<T>>::kernels.unary(op, 0, 0, rows > 0 ? (rows - 1) * row_stride + cols : 0, x,
                                             values_.data());
  }
  const T* data() const { return values_.data(); }

 private:
  Scratch<T> values_;
};

template <class T>
void gemm(const Gemm& g, const T* a, const T* b, const T* bias, const T* residual, T* c, Mode mode) {
  multiply(g, a, b, bias, residual, c, mode);
}

template <class Low>
void low_gemm(const Gemm& g, const Low* a, const Low* b, const float* bias, const float* residual, float* c,
              Mode mode) {
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
  if (bias) Provided<UnaryKernels<Low>>::kernels.round(g.n, bias, rounded.data());
  const Joined joined = bias ? Joined{CUBLASLT_EPILOGUE_BIAS, rounded.data()} : Joined{};
  const bool done = products().multiply(g, a, b, joined, mode == Mode::kAccumulate ? 1.0f : 0.0f, c, c);
  if (bias && !done) add_bias<float, Low>(g, bias, nullptr, c, Mode::kAccumulate);
}

template <class Low>
void low_derivative_gemm(const Gemm& g, UnaryOp op, const Low* a, const Low* b, const Low* at, Low* c, Low* value) {
  const std::int64_t n = g.m * g.n;
  const bool has_epilogue = op == UnaryOp::kGeluTanh && n > 0 && g.k > 0;  // cuBLASLt's GELU is the one with tanh
  if (has_epilogue && products().multiply(g, a, b, {CUBLASLT_EPILOGUE_DGELU, nullptr, at}, 0.0f, c, c)) {
    if (value) Provided<UnaryKernels<Low>>::kernels.unary(op, n, at, value);
    return;
  }
  if (!has_epilogue) low_gemm_rounded<Low>(g, a, b, nullptr, c, Mode::kWrite);
  if (value) low_value_and_derivative(op, n, at, value, c);
  else Provided<UnaryKernels<Low>>::kernels.unary_backward(op, n, at, c, c, Mode::kWrite);
}

// cuBLASLt writes the gradient of a bias, and does not add to it.
template <class Low>
void low_parameter_gradients(const Gemm& g, const Low* dy, const Low* x, float* dw, Mode dw_mode, float* db,
                             Mode db_mode) {
  if (g.m <= 0 || g.n <= 0 || g.k <= 0) {
    multiply<Low, float>(g, dy, x, nullptr, nullptr, dw, dw_mode);
    return Provided<ReduceKernels<Low>>::kernels.sum_rows(g.k, g.m, g.row_stride_a(), dy, db, db_mode);
  }
  const bool adds = db_mode == Mode::kAccumulate;
  const Scratch<float> added(adds ? g.m : 0);
  float* sums = adds ? added.data() : db;
  const Joined joined{CUBLASLT_EPILOGUE_BGRADB, sums};
  const bool done = products().multiply(g, dy, x, joined, dw_mode == Mode::kAccumulate ? 1.0f : 0.0f, dw, dw);
  if (!done) Provided<ReduceKernels<Low>>::kernels.sum_rows(g.k, g.m, g.row_stride_a(), dy, db, db_mode);
  else if (adds) Provided<ReduceKernels<float>>::kernels.sum_rows(1, g.m, g.m, sums, db, Mode::kAccumulate);
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

template <class T>
constexpr GemmKernels<T> kGemm{
    .gemm = gemm<T>,
    .activated_gemm = activated_gemm<T>,
    .packed_elements = nullptr,
    .pack_factor = nullptr,
};
template <class Low>
requires kLowPrecision<Low>
constexpr GemmKernels<Low> kGemm<Low>{
    .gemm = low_gemm<Low>,
    .gemm_rounded = low_gemm_rounded<Low>,
    .derivative_gemm = low_derivative_gemm<Low>,
    .parameter_gradients = low_parameter_gradients<Low>,
};

}  // namespace

template <>
const GemmKernels<float> Provided<GemmKernels<float>>::kernels = kGemm<float>;
template <>
const GemmKernels<double> Provided<GemmKernels<double>>::kernels = kGemm<double>;
template <>
const GemmKernels<BFloat16> Provided<GemmKernels<BFloat16>>::kernels = kGemm<BFloat16>;
template <>
const GemmKernels<Float16> Provided<GemmKernels<Float16>>::kernels = kGemm<Float16>;

}  // namespace tapecache::kernels::cuda
