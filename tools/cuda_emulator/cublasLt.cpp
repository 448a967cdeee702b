#include "cublasLt.h"

#include <cstring>
#include <type_traits>
#include <vector>

#include "tapecache/core/dtype.h"

namespace {

using tapecache::BFloat16;
using tapecache::Float16;

constexpr std::size_t kWorkspace = 1024;  // asked for though not used

template <class T>
double read(const T* p) {
  return static_cast<double>(*p);
}

/// An f32 that is read as TF32.
struct Tf32 {
  float value;
};
double read(const Tf32* p) {
  const auto bits = std::bit_cast<std::uint32_t>(p->value);
  return std::bit_cast<float>((bits + 0xfff + (bits >> 13 & 1)) & ~0x1fffu);
}

double read(const BFloat16* p) { return static_cast<float>(*p); }
double read(const Float16* p) { return static_cast<float>(*p); }

/// The derivative of x Φ(x), Φ being approximated by tanh.
double gelu_derivative(double x) {
  constexpr double kSqrt2OverPi = 0.79788456080286535588, kCubic = 0.044715;
  const double t = std::tanh(kSqrt2OverPi * (x + kCubic * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * kSqrt2OverPi * (1 + 3 * kCubic * x * x);
}

/// D = α op(A) op(B) + βC with an epilogue, of one column-major product.
template <class In, class Out, class Scale>
void multiply(const cublasLtMatmulDescOpaque_t& how, Scale alpha, const In* a, std::int64_t lda, const In* b,
              std::int64_t ldb, Scale beta, const Out* c, Out* d, std::int64_t ldd, std::int64_t m, std::int64_t n,
              std::int64_t k) {
  const Out* bias = how.epilogue == CUBLASLT_EPILOGUE_BIAS ? static_cast<const Out*>(how.bias) : nullptr;
  const Out* aux = how.epilogue == CUBLASLT_EPILOGUE_DGELU ? static_cast<const Out*>(how.aux) : nullptr;
  std::vector<double> left(static_cast<std::size_t>(m * k)), sums(static_cast<std::size_t>(m));
  for (std::int64_t p = 0; p < k; ++p) {
    for (std::int64_t i = 0; i < m; ++i) {
      left[static_cast<std::size_t>(p * m + i)] =
          read(how.transpose_a == CUBLAS_OP_T ? a + i * lda + p : a + p * lda + i);
    }
  }
  for (std::int64_t j = 0; j < n; ++j) {
    sums.assign(sums.size(), 0);
    double sum_of_b = 0;
    for (std::int64_t p = 0; p < k; ++p) {
      const double right = read(how.transpose_b == CUBLAS_OP_T ? b + p * ldb + j : b + j * ldb + p);
      sum_of_b += right;
      const double* column = left.data() + p * m;
      for (std::int64_t i = 0; i < m; ++i) sums[static_cast<std::size_t>(i)] += column[i] * right;
    }
    for (std::int64_t i = 0; i < m; ++i) {
      double value = alpha * sums[static_cast<std::size_t>(i)];
      if (beta != 0) value += beta * read(c + j * ldd + i);
      if (bias) value += read(bias + i);
      if (aux) value *= gelu_derivative(read(aux + j * how.aux_ld + i));
      d[j * ldd + i] = Out(static_cast<Scale>(value));
    }
    if (how.epilogue == CUBLASLT_EPILOGUE_BGRADB) {
      static_cast<Out*>(const_cast<void*>(how.bias))[j] = Out(static_cast<Scale>(sum_of_b));
    }
  }
}

template <class In, class Out>
cublasStatus_t multiply_all(const cublasLtMatmulDescOpaque_t& how, const void* alpha, const void* a,
                            const cublasLtMatrixLayoutOpaque_t& of_a, const void* b,
                            const cublasLtMatrixLayoutOpaque_t& of_b, const void* beta, const void* c, void* d,
                            const cublasLtMatrixLayoutOpaque_t& of_d) {
  using Scale = std::conditional_t<std::is_same_v<Out, double>, double, float>;
  const std::int64_t k = how.transpose_a == CUBLAS_OP_T ? of_a.rows : of_a.cols;
  for (std::int64_t i = 0; i < of_d.batch; ++i) {
    multiply(how, *static_cast<const Scale*>(alpha), static_cast<const In*>(a) + i * of_a.stride, of_a.ld,
             static_cast<const In*>(b) + i * of_b.stride, of_b.ld, *static_cast<const Scale*>(beta),
             static_cast<const Out*>(c) + i * of_d.stride, static_cast<Out*>(d) + i * of_d.stride, of_d.ld, of_d.rows,
             of_d.cols, k);
  }
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

const char* cublasLtGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_INVALID_VALUE ? "invalid value (emulated)" : "not supported (emulated)";
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) { return *handle = nullptr, CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* how, cublasComputeType_t compute, cudaDataType_t) {
  return *how = new cublasLtMatmulDescOpaque_t{compute}, CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t how, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, std::size_t) {
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      how->transpose_a = *static_cast<const cublasOperation_t*>(value);
      break;
    case CUBLASLT_MATMUL_DESC_TRANSB:
      how->transpose_b = *static_cast<const cublasOperation_t*>(value);
      break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      how->epilogue = *static_cast<const cublasLtEpilogue_t*>(value);
      break;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      how->bias = *static_cast<const void* const*>(value);
      break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
      how->aux = *static_cast<const void* const*>(value);
      break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
      how->aux_ld = *static_cast<const std::int64_t*>(value);
      break;
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t how) { return delete how, CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type, std::uint64_t rows,
                                          std::uint64_t cols, std::int64_t ld) {
  if (ld < static_cast<std::int64_t>(rows)) return CUBLAS_STATUS_INVALID_VALUE;
  *layout =
      new cublasLtMatrixLayoutOpaque_t{type, static_cast<std::int64_t>(rows), static_cast<std::int64_t>(cols), ld};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void* value,
                                                std::size_t) {
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
      layout->batch = *static_cast<const std::int32_t*>(value);
      break;
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
      layout->stride = *static_cast<const std::int64_t*>(value);
      break;
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  return delete layout, CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  return *preference = new cublasLtMatmulPreferenceOpaque_t, CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t,
                                                    const void*, std::size_t) {
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  return delete preference, CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t, int, cublasLtMatmulHeuristicResult_t* result,
                                              int* found) {
  *result = {{}, kWorkspace, CUBLAS_STATUS_SUCCESS};
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t how, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t of_a, const void* b, cublasLtMatrixLayout_t of_b, const void* beta,
                              const void* c, cublasLtMatrixLayout_t, void* d, cublasLtMatrixLayout_t of_d,
                              const cublasLtMatmulAlgo_t*, void*, std::size_t workspace_bytes, cudaStream_t stream) {
  for (const void* p : {a, b, c, static_cast<const void*>(d)}) {
    if (!emulation::is_device_memory(p)) return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (workspace_bytes < kWorkspace) return CUBLAS_STATUS_INVALID_VALUE;
  const bool has_vector = how->epilogue == CUBLASLT_EPILOGUE_BIAS || how->epilogue == CUBLASLT_EPILOGUE_BGRADB;
  if (has_vector && !emulation::is_device_memory(how->bias)) return CUBLAS_STATUS_INVALID_VALUE;
  if (how->epilogue == CUBLASLT_EPILOGUE_DGELU) {
    if (!emulation::is_device_memory(how->aux) || how->aux_ld % 8 != 0 || how->aux_ld < of_d->rows) {
      return CUBLAS_STATUS_INVALID_VALUE;
    }
  }
  const auto scalar = [&](const void* value) {
    double bytes = 0;  // of a float or a double
    std::memcpy(&bytes, value, of_d->type == CUDA_R_64F ? sizeof(double) : sizeof(float));
    return bytes;
  };
  const auto work = [=, how = *how, of_a = *of_a, of_b = *of_b, of_d = *of_d, x = scalar(alpha), y = scalar(beta)] {
    const emulation::DeviceAccess access;
    const auto multiply = [&]<class In, class Out>() {
      return multiply_all<In, Out>(how, &x, a, of_a, b, of_b, &y, c, d, of_d);
    };
    const bool to_single = of_d.type == CUDA_R_32F;
    switch (of_a.type) {
      case CUDA_R_64F:
        return multiply.template operator()<double, double>();
      case CUDA_R_16BF:
        return to_single ? multiply.template operator()<BFloat16, float>()
                         : multiply.template operator()<BFloat16, BFloat16>();
      case CUDA_R_16F:
        return to_single ? multiply.template operator()<Float16, float>()
                         : multiply.template operator()<Float16, Float16>();
      case CUDA_R_32F:
        break;
    }
    if (how.compute == CUBLAS_COMPUTE_32F_FAST_TF32) return multiply.template operator()<Tf32, float>();
    return multiply.template operator()<float, float>();
  };
  const cudaError_t status = emulation::submit(
      stream, [work] { return work() == CUBLAS_STATUS_SUCCESS ? cudaSuccess : cudaErrorInvalidValue; });
  return status == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}
