#include "cudnn.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tapecache/core/dtype.h"
#include "tapecache/ops/cuda/cudnn_library.h"

namespace {

using Sizes = std::array<std::int64_t, 4>;
using tapecache::BFloat16;
using tapecache::Float16;

constexpr std::int64_t kWorkspace = 256;  // asked for though not used

std::string last_error;

cudnnStatus_t refuse(cudnnStatus_t status, const std::string& why) {
  last_error = why;
  return status;
}

/// What is behind a descriptor; kept as long as a descriptor that it was given to.
struct Node {
  cudnnBackendDescriptorType_t type;
  bool finalized = false;
  std::map<int, std::vector<std::byte>> values;
  std::map<int, std::vector<std::shared_ptr<Node>>> nodes;

  template <class T>
  std::span<const T> all(int attribute) const {
    const auto found = values.find(attribute);
    if (found == values.end()) return {};
    return {reinterpret_cast<const T*>(found->second.data()), found->second.size() / sizeof(T)};
  }
  template <class T>
  T value(int attribute) const {
    return all<T>(attribute).front();
  }
  bool has(int attribute) const { return values.contains(attribute) || nodes.contains(attribute); }
  const Node& node(int attribute) const { return *nodes.at(attribute).front(); }
};

using Handle = std::shared_ptr<Node>;
Handle& handle_of(cudnnBackendDescriptor_t descriptor) { return *static_cast<Handle*>(descriptor); }

std::size_t bytes_of(cudnnBackendAttributeType_t type) {
  switch (type) {
    case CUDNN_TYPE_BOOLEAN: return sizeof(bool);
    case CUDNN_TYPE_CHAR: return 1;
    case CUDNN_TYPE_INT64: case CUDNN_TYPE_VOID_PTR: case CUDNN_TYPE_HANDLE: return 8;
    default: return 4;  // enumerations
  }
}

/// Attributes without which a descriptor is not complete.
std::vector<int> needed_by(cudnnBackendDescriptorType_t type) {
  switch (type) {
    case CUDNN_BACKEND_POINTWISE_DESCRIPTOR: return {CUDNN_ATTR_POINTWISE_MODE, CUDNN_ATTR_POINTWISE_MATH_PREC};
    case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR: return {CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH};
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR: return {CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG};
    case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
      return {CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_XDESC,
              CUDNN_ATTR_OPERATION_POINTWISE_YDESC};
    case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR: return {CUDNN_ATTR_OPERATIONGRAPH_OPS};
    case CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR:
      return {CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_ATTR_VARIANT_PACK_WORKSPACE};
    case CUDNN_BACKEND_TENSOR_DESCRIPTOR:
      return {CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_ATTR_TENSOR_STRIDES,
              CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT};
    case CUDNN_BACKEND_MATMUL_DESCRIPTOR: return {CUDNN_ATTR_MATMUL_COMP_TYPE};
    case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
      return {CUDNN_ATTR_OPERATION_MATMUL_ADESC, CUDNN_ATTR_OPERATION_MATMUL_BDESC, CUDNN_ATTR_OPERATION_MATMUL_CDESC,
              CUDNN_ATTR_OPERATION_MATMUL_DESC};
    case CUDNN_BACKEND_REDUCTION_DESCRIPTOR: return {CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_ATTR_REDUCTION_COMP_TYPE};
    case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR:
      return {CUDNN_ATTR_OPERATION_REDUCTION_XDESC, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, CUDNN_ATTR_OPERATION_REDUCTION_DESC};
    case CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR:
      return {CUDNN_ATTR_OPERATION_RESHAPE_XDESC, CUDNN_ATTR_OPERATION_RESHAPE_YDESC};
    default: return {};
  }
}

/// A run of a graph: tensors that are not virtual lie in memory, the others are kept here.
class Run {
 public:
  Run(const Node& graph, const Node& pack) : graph_(graph) {
    const auto ids = pack.all<std::int64_t>(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    const auto addresses = pack.all<char*>(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
    for (std::size_t i = 0; i < ids.size(); ++i) addresses_[ids[i]] = addresses[i];
  }

  cudnnStatus_t run() {
    const emulation::DeviceAccess access;
    for (const Handle& operation : graph_.nodes.at(CUDNN_ATTR_OPERATIONGRAPH_OPS)) {
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
      if (aligned && of_host != emulation::is_device_memory(found->second)) x.memory = found->second;
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
      case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR: return multiply(operation);
      case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR: return reduce(operation);
      case CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR: return transpose(operation);
      default: return run_pointwise(operation);
    }
  }

  cudnnStatus_t multiply(const Node& operation) {
    const Operand a = operand(operation.node(CUDNN_ATTR_OPERATION_MATMUL_ADESC));
    const Operand b = operand(operation.node(CUDNN_ATTR_OPERATION_MATMUL_BDESC));
    const Operand c = operand(operation.node(CUDNN_ATTR_OPERATION_MATMUL_CDESC));
    if (!a.memory || !b.memory || !c.memory) return refuse(CUDNN_STATUS_BAD_PARAM, "a product's tensor");
    if (c.sizes != Sizes{a.sizes[0], a.sizes[1], a.sizes[2], b.sizes[3]} || a.sizes[3] != b.sizes[2]) {
      return refuse(CUDNN_STATUS_BAD_PARAM, "a product's sizes");
    }
    fill(c, [&](const Sizes& at) {
      double sum = 0;
      for (std::int64_t k = 0; k < a.sizes[3]; ++k) sum += read(a, {at[0], at[1], at[2], k}) * read(b, {at[0], at[1], k, at[3]});
      return sum;
    });
    return CUDNN_STATUS_SUCCESS;
  }

  cudnnStatus_t reduce(const Node& operation) {
    const Operand x = operand(operation.node(CUDNN_ATTR_OPERATION_REDUCTION_XDESC));
    const Operand y = operand(operation.node(CUDNN_ATTR_OPERATION_REDUCTION_YDESC));
    if (!x.memory || !y.memory || y.sizes != Sizes{x.sizes[0], x.sizes[1], x.sizes[2], 1}) {
      return refuse(CUDNN_STATUS_BAD_PARAM, "a reduction's tensors");
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
      return refuse(CUDNN_STATUS_BAD_PARAM, "a view that does not exchange rows and columns");
    }
    fill(y, [&](const Sizes& at) { return read(x, exchanged(at)); });
    return CUDNN_STATUS_SUCCESS;
  }

  cudnnStatus_t run_pointwise(const Node& operation) {
    const Node& how = operation.node(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR);
    const auto mode = how.value<cudnnPointwiseMode_t>(CUDNN_ATTR_POINTWISE_MODE);
    const auto optional = [&](int attribute) { return operation.has(attribute) ? operand(operation.node(attribute)) : Operand{}; };
    const Operand x = operand(operation.node(CUDNN_ATTR_OPERATION_POINTWISE_XDESC));
    const Operand y = operand(operation.node(CUDNN_ATTR_OPERATION_POINTWISE_YDESC));
    const Operand b = optional(CUDNN_ATTR_OPERATION_POINTWISE_BDESC), t = optional(CUDNN_ATTR_OPERATION_POINTWISE_TDESC);
    const bool unary = mode == CUDNN_POINTWISE_EXP || mode == CUDNN_POINTWISE_LOG || mode == CUDNN_POINTWISE_GEN_INDEX;
    const bool selects = mode == CUDNN_POINTWISE_BINARY_SELECT;
    if (!x.memory || !y.memory || !b.memory != unary || !t.memory == selects || x.sizes != y.sizes) {
      return refuse(CUDNN_STATUS_BAD_PARAM, "an element-wise operation's tensors");
    }
    const auto axis = mode == CUDNN_POINTWISE_GEN_INDEX ? how.value<std::int64_t>(CUDNN_ATTR_POINTWISE_AXIS) : 0;
    fill(y, [&](const Sizes& at) -> double {
      switch (mode) {
        case CUDNN_POINTWISE_ADD: return read(x, at) + read(b, at);
        case CUDNN_POINTWISE_MUL: return read(x, at) * read(b, at);
        case CUDNN_POINTWISE_DIV: return read(x, at) / read(b, at);
        case CUDNN_POINTWISE_SUB: return read(x, at) - read(b, at);
        case CUDNN_POINTWISE_EXP: return std::exp(read(x, at));
        case CUDNN_POINTWISE_LOG: return std::log(read(x, at));
        case CUDNN_POINTWISE_CMP_GE: return read(x, at) >= read(b, at);
        case CUDNN_POINTWISE_GEN_INDEX: return static_cast<double>(at[static_cast<std::size_t>(axis)]);
        case CUDNN_POINTWISE_BINARY_SELECT: return read(t, at) != 0 ? read(x, at) : read(b, at);
      }
      return std::nan("");
    });
    return CUDNN_STATUS_SUCCESS;
  }

  const Node& graph_;
  std::map<std::int64_t, char*> addresses_;
  std::map<std::int64_t, std::vector<double>> kept_;
};

}  // namespace

std::size_t cudnnGetVersion() { return 99999; }

const char* cudnnGetErrorString(cudnnStatus_t status) {
  return status == CUDNN_STATUS_BAD_PARAM ? "bad parameter (emulated)" : "not supported (emulated)";
}

void cudnnGetLastErrorString(char* message, std::size_t size) {
  message[last_error.copy(message, size - 1)] = 0;
}

cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) {
  static char anything;
  *handle = reinterpret_cast<cudnnHandle_t>(&anything);
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t, cudaStream_t) { return CUDNN_STATUS_SUCCESS; }

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* descriptor) {
  *descriptor = new Handle(std::make_shared<Node>(Node{type}));
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
  delete static_cast<Handle*>(descriptor);
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, std::int64_t count, const void* values) {
  Node& node = *handle_of(descriptor);
  if (node.finalized || count < 1) return refuse(CUDNN_STATUS_BAD_PARAM, "an attribute of what is finalized, or of none");
  if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR) {
    std::vector<Handle>& to = node.nodes[name];
    to.clear();
    for (const auto other : std::span(static_cast<const cudnnBackendDescriptor_t*>(values), static_cast<std::size_t>(count))) {
      if (!handle_of(other)->finalized) return refuse(CUDNN_STATUS_BAD_PARAM, "a descriptor that is not finalized");
      to.push_back(handle_of(other));
    }
  } else {
    const auto* bytes = static_cast<const std::byte*>(values);
    node.values[name].assign(bytes, bytes + static_cast<std::size_t>(count) * bytes_of(type));
  }
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t, std::int64_t asked_for, std::int64_t* count, void* values) {
  const Handle& node = handle_of(descriptor);
  if (!node->finalized) return refuse(CUDNN_STATUS_BAD_PARAM, "what is not finalized");
  *count = 1;
  if (name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE) {
    *static_cast<std::int64_t*>(values) = kWorkspace;
  } else if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS && asked_for > 0) {
    Handle& configuration = handle_of(*static_cast<cudnnBackendDescriptor_t*>(values));
    configuration->nodes[CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH] = node->nodes.at(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
    configuration->finalized = true;
  }
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
  Node& node = *handle_of(descriptor);
  for (const int attribute : needed_by(node.type)) {
    if (!node.has(attribute)) return refuse(CUDNN_STATUS_BAD_PARAM, "attribute " + std::to_string(attribute) + " is missing");
  }
  node.finalized = true;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack) {
  const Node& arguments = *handle_of(pack);
  if (!emulation::is_device_memory(arguments.value<void*>(CUDNN_ATTR_VARIANT_PACK_WORKSPACE))) {
    return refuse(CUDNN_STATUS_BAD_PARAM, "the workspace");
  }
  const Node& configuration = handle_of(plan)->node(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
  return Run(configuration.node(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH), arguments).run();
}

namespace tapecache::kernels::cuda {

/// So that other ways of attention are tested too, it wants to be asked for.
std::optional<CudnnFunctions> load_cudnn(bool insisted, std::string& why_not) {
  if (!insisted) {
    why_not = "the emulation has one only where TAPECACHE_CUDNN is always";
    return std::nullopt;
  }
  return CudnnFunctions{cudnnGetVersion,
                        cudnnGetErrorString,
                        cudnnGetLastErrorString,
                        cudnnCreate,
                        cudnnSetStream,
                        cudnnBackendCreateDescriptor,
                        cudnnBackendDestroyDescriptor,
                        cudnnBackendSetAttribute,
                        cudnnBackendGetAttribute,
                        cudnnBackendFinalize,
                        cudnnBackendExecute};
}

}  // namespace tapecache::kernels::cuda
