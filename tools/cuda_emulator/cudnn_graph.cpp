#include "cudnn_graph.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "tapecache/core/dtype.h"

namespace emulation {

namespace {

using tapecache::BFloat16;
using tapecache::Float16;
using Sizes = std::array<std::int64_t, 4>;

/// A run of a graph: tensors that are not virtual lie in memory, the others are kept here.
class Run {
 public:
  Run(const Node& graph, const Node& pack, std::string& why_not) : graph_(graph), why_not_(why_not) {
    const auto ids = pack.all<std::int64_t>(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    const auto addresses = pack.all<char*>(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
    for (std::size_t i = 0; i < ids.size(); ++i) addresses_[ids[i]] = addresses[i];
  }

  cudnnStatus_t run() {
    const DeviceAccess access;
    for (const std::shared_ptr<Node>& operation : graph_.nodes.at(CUDNN_ATTR_OPERATIONGRAPH_OPS)) {
      const cudnnStatus_t status = run(*operation);
      if (status != CUDNN_STATUS_SUCCESS) return status;
    }
    return CUDNN_STATUS_SUCCESS;
  }

 private:
  struct Operand {
    Sizes sizes, strides;
    cudnnDataType_t type = CUDNN_DATA_FLOAT;
    bool is_virtual = false;
    char* memory = nullptr;  ///< null where it was not given, or is not as it should be

    /// In memory, in elements; axes of size 1 are spread.
    std::int64_t place(const Sizes& at) const {
      std::int64_t sum = 0;
      for (std::size_t axis = 0; axis < 4; ++axis) sum += sizes[axis] == 1 ? 0 : at[axis] * strides[axis];
      return sum;
    }
  };

  Operand operand(const Node& tensor) {
    Operand x;
    std::ranges::copy(tensor.all<std::int64_t>(CUDNN_ATTR_TENSOR_DIMENSIONS), x.sizes.begin());
    std::ranges::copy(tensor.all<std::int64_t>(CUDNN_ATTR_TENSOR_STRIDES), x.strides.begin());
    x.type = tensor.value<cudnnDataType_t>(CUDNN_ATTR_TENSOR_DATA_TYPE);
    x.is_virtual = tensor.value<bool>(CUDNN_ATTR_TENSOR_IS_VIRTUAL);
    const auto id = tensor.value<std::int64_t>(CUDNN_ATTR_TENSOR_UNIQUE_ID);
    if (x.is_virtual) {
      std::int64_t last = 1;
      for (std::size_t axis = 0; axis < 4; ++axis) last += (x.sizes[axis] - 1) * x.strides[axis];
      kept_[id].resize(static_cast<std::size_t>(last), std::nan(""));
      x.memory = reinterpret_cast<char*>(kept_[id].data());
    } else if (const auto found = addresses_.find(id); found != addresses_.end()) {
      const auto alignment = static_cast<std::uintptr_t>(tensor.value<std::int64_t>(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT));
      const bool of_host = tensor.value<bool>(CUDNN_ATTR_TENSOR_IS_BY_VALUE);
      const bool aligned = of_host || reinterpret_cast<std::uintptr_t>(found->second) % alignment == 0;
      if (aligned && of_host != is_device_memory(found->second)) x.memory = found->second;
    }
    return x;
  }

  static double read(const Operand& x, const Sizes& at) {
    const std::int64_t i = x.place(at);
    if (x.is_virtual) return reinterpret_cast<const double*>(x.memory)[i];
    if (x.type == CUDNN_DATA_BFLOAT16) return static_cast<float>(reinterpret_cast<const BFloat16*>(x.memory)[i]);
    if (x.type == CUDNN_DATA_HALF) return static_cast<float>(reinterpret_cast<const Float16*>(x.memory)[i]);
    return reinterpret_cast<const float*>(x.memory)[i];
  }

  template <class Low>
  static void put(const Operand& x, std::int64_t i, double value) {
    const Low rounded(static_cast<float>(value));
    if (x.is_virtual) reinterpret_cast<double*>(x.memory)[i] = static_cast<float>(rounded);
    else reinterpret_cast<Low*>(x.memory)[i] = rounded;
  }

  static void write(const Operand& x, const Sizes& at, double value) {
    const std::int64_t i = x.place(at);
    if (x.type == CUDNN_DATA_BFLOAT16) put<BFloat16>(x, i, value);
    else if (x.type == CUDNN_DATA_HALF) put<Float16>(x, i, value);
    else if (x.is_virtual) reinterpret_cast<double*>(x.memory)[i] = value;
    else reinterpret_cast<float*>(x.memory)[i] = static_cast<float>(value);
  }

  template <class F>
  void fill(const Operand& y, const F& value) {
    for (std::int64_t i = 0; i < y.sizes[0] * y.sizes[1] * y.sizes[2] * y.sizes[3]; ++i) {
      const Sizes at{i / y.sizes[3] / y.sizes[2] / y.sizes[1], i / y.sizes[3] / y.sizes[2] % y.sizes[1],
                     i / y.sizes[3] % y.sizes[2], i % y.sizes[3]};
      write(y, at, value(at));
    }
  }

  cudnnStatus_t run(const Node& operation) {
    switch (operation.type) {
      case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
        return multiply(operation);
      case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR:
        return reduce(operation);
      case CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR:
        return transpose(operation);
      default:
        return run_pointwise(operation);
    }
  }

  cudnnStatus_t refuse(const std::string& why) {
    why_not_ = why;
    return CUDNN_STATUS_BAD_PARAM;
  }

  cudnnStatus_t multiply(const Node& operation) {
    const Operand a = operand(operation.node(CUDNN_ATTR_OPERATION_MATMUL_ADESC));
    const Operand b = operand(operation.node(CUDNN_ATTR_OPERATION_MATMUL_BDESC));
    const Operand c = operand(operation.node(CUDNN_ATTR_OPERATION_MATMUL_CDESC));
    if (!a.memory || !b.memory || !c.memory) return refuse("a product's tensor");
    if (c.sizes != Sizes{a.sizes[0], a.sizes[1], a.sizes[2], b.sizes[3]} || a.sizes[3] != b.sizes[2]) {
      return refuse("a product's sizes");
    }
    fill(c, [&](const Sizes& at) {
      double sum = 0;
      for (std::int64_t k = 0; k < a.sizes[3]; ++k) {
        sum += read(a, {at[0], at[1], at[2], k}) * read(b, {at[0], at[1], k, at[3]});
      }
      return sum;
    });
    return CUDNN_STATUS_SUCCESS;
  }

  cudnnStatus_t reduce(const Node& operation) {
    const Operand x = operand(operation.node(CUDNN_ATTR_OPERATION_REDUCTION_XDESC));
    const Operand y = operand(operation.node(CUDNN_ATTR_OPERATION_REDUCTION_YDESC));
    if (!x.memory || !y.memory || y.sizes != Sizes{x.sizes[0], x.sizes[1], x.sizes[2], 1}) {
      return refuse("a reduction's tensors");
    }
    const Node& how = operation.node(CUDNN_ATTR_OPERATION_REDUCTION_DESC);
    const bool adds = how.value<cudnnReduceTensorOp_t>(CUDNN_ATTR_REDUCTION_OPERATOR) == CUDNN_REDUCE_TENSOR_ADD;
    fill(y, [&](const Sizes& at) {
      double result = read(x, at);
      for (std::int64_t k = 1; k < x.sizes[3]; ++k) {
        const double other = read(x, {at[0], at[1], at[2], k});
        result = adds ? result + other : std::max(result, other);
      }
      return result;
    });
    return CUDNN_STATUS_SUCCESS;
  }

  cudnnStatus_t transpose(const Node& operation) {
    const Operand x = operand(operation.node(CUDNN_ATTR_OPERATION_RESHAPE_XDESC));
    const Operand y = operand(operation.node(CUDNN_ATTR_OPERATION_RESHAPE_YDESC));
    const auto exchanged = [](Sizes s) { return std::swap(s[2], s[3]), s; };
    if (!x.memory || !y.memory || y.sizes != exchanged(x.sizes) || y.strides != exchanged(x.strides)) {
      return refuse("a view that does not exchange rows and columns");
    }
    fill(y, [&](const Sizes& at) { return read(x, exchanged(at)); });
    return CUDNN_STATUS_SUCCESS;
  }

  cudnnStatus_t run_pointwise(const Node& operation) {
    const Node& how = operation.node(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR);
    const auto mode = how.value<cudnnPointwiseMode_t>(CUDNN_ATTR_POINTWISE_MODE);
    const auto optional = [&](int attribute) {
      return operation.has(attribute) ? operand(operation.node(attribute)) : Operand{};
    };
    const Operand x = operand(operation.node(CUDNN_ATTR_OPERATION_POINTWISE_XDESC));
    const Operand y = operand(operation.node(CUDNN_ATTR_OPERATION_POINTWISE_YDESC));
    const Operand b = optional(CUDNN_ATTR_OPERATION_POINTWISE_BDESC),
                  t = optional(CUDNN_ATTR_OPERATION_POINTWISE_TDESC);
    const bool unary = mode == CUDNN_POINTWISE_EXP || mode == CUDNN_POINTWISE_LOG || mode == CUDNN_POINTWISE_GEN_INDEX;
    const bool selects = mode == CUDNN_POINTWISE_BINARY_SELECT;
    if (!x.memory || !y.memory || !b.memory != unary || !t.memory == selects || x.sizes != y.sizes) {
      return refuse("an element-wise operation's tensors");
    }
    const auto axis = mode == CUDNN_POINTWISE_GEN_INDEX ? how.value<std::int64_t>(CUDNN_ATTR_POINTWISE_AXIS) : 0;
    fill(y, [&](const Sizes& at) -> double {
      switch (mode) {
        case CUDNN_POINTWISE_ADD:
          return read(x, at) + read(b, at);
        case CUDNN_POINTWISE_MUL:
          return read(x, at) * read(b, at);
        case CUDNN_POINTWISE_DIV:
          return read(x, at) / read(b, at);
        case CUDNN_POINTWISE_SUB:
          return read(x, at) - read(b, at);
        case CUDNN_POINTWISE_EXP:
          return std::exp(read(x, at));
        case CUDNN_POINTWISE_LOG:
          return std::log(read(x, at));
        case CUDNN_POINTWISE_CMP_GE:
          return read(x, at) >= read(b, at);
        case CUDNN_POINTWISE_GEN_INDEX:
          return static_cast<double>(at[static_cast<std::size_t>(axis)]);
        case CUDNN_POINTWISE_BINARY_SELECT:
          return read(t, at) != 0 ? read(x, at) : read(b, at);
      }
      return std::nan("");
    });
    return CUDNN_STATUS_SUCCESS;
  }

  const Node& graph_;
  std::string& why_not_;
  std::map<std::int64_t, char*> addresses_;
  std::map<std::int64_t, std::vector<double>> kept_;
};

}  // namespace

cudnnStatus_t run_graph(const Node& graph, const Node& pack, std::string& why_not) {
  return Run(graph, pack, why_not).run();
}

}  // namespace emulation
