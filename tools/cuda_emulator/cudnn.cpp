#include "cudnn_graph.h"

#include <algorithm>

#include "tapecache/ops/cuda/cudnn_library.h"

namespace {

using emulation::Node;

constexpr std::int64_t kWorkspace = 256;  // asked for though not used

std::string last_error;

cudnnStatus_t refuse(cudnnStatus_t status, const std::string& why) {
  last_error = why;
  return status;
}

using Handle = std::shared_ptr<Node>;
Handle& handle_of(cudnnBackendDescriptor_t descriptor) { return *static_cast<Handle*>(descriptor); }

std::size_t bytes_of(cudnnBackendAttributeType_t type) {
  switch (type) {
    case CUDNN_TYPE_BOOLEAN:
      return sizeof(bool);
    case CUDNN_TYPE_CHAR:
      return 1;
    case CUDNN_TYPE_INT64:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_HANDLE:
      return 8;
    default:
      return 4;  // enumerations
  }
}

/// Attributes without which a descriptor is not complete.
std::vector<int> needed_by(cudnnBackendDescriptorType_t type) {
  switch (type) {
    case CUDNN_BACKEND_POINTWISE_DESCRIPTOR:
      return {CUDNN_ATTR_POINTWISE_MODE, CUDNN_ATTR_POINTWISE_MATH_PREC};
    case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR:
      return {CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH};
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR:
      return {CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG};
    case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
      return {CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_XDESC,
              CUDNN_ATTR_OPERATION_POINTWISE_YDESC};
    case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR:
      return {CUDNN_ATTR_OPERATIONGRAPH_OPS};
    case CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR:
      return {CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS,
              CUDNN_ATTR_VARIANT_PACK_WORKSPACE};
    case CUDNN_BACKEND_TENSOR_DESCRIPTOR:
      return {CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_ATTR_TENSOR_DIMENSIONS,
              CUDNN_ATTR_TENSOR_STRIDES, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT};
    case CUDNN_BACKEND_MATMUL_DESCRIPTOR:
      return {CUDNN_ATTR_MATMUL_COMP_TYPE};
    case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
      return {CUDNN_ATTR_OPERATION_MATMUL_ADESC, CUDNN_ATTR_OPERATION_MATMUL_BDESC, CUDNN_ATTR_OPERATION_MATMUL_CDESC,
              CUDNN_ATTR_OPERATION_MATMUL_DESC};
    case CUDNN_BACKEND_REDUCTION_DESCRIPTOR:
      return {CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_ATTR_REDUCTION_COMP_TYPE};
    case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR:
      return {CUDNN_ATTR_OPERATION_REDUCTION_XDESC, CUDNN_ATTR_OPERATION_REDUCTION_YDESC,
              CUDNN_ATTR_OPERATION_REDUCTION_DESC};
    case CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR:
      return {CUDNN_ATTR_OPERATION_RESHAPE_XDESC, CUDNN_ATTR_OPERATION_RESHAPE_YDESC};
    default:
      return {};
  }
}

}  // namespace

std::size_t cudnnGetVersion() { return 99999; }

const char* cudnnGetErrorString(cudnnStatus_t status) {
  return status == CUDNN_STATUS_BAD_PARAM ? "bad parameter (emulated)" : "not supported (emulated)";
}

void cudnnGetLastErrorString(char* message, std::size_t size) { message[last_error.copy(message, size - 1)] = 0; }

cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) {
  static char anything;
  *handle = reinterpret_cast<cudnnHandle_t>(&anything);
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t, cudaStream_t) { return CUDNN_STATUS_SUCCESS; }

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* descriptor) {
  *descriptor = new Handle(std::make_shared<Node>(Node{type, false, {}, {}}));
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
  delete static_cast<Handle*>(descriptor);
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, std::int64_t count, const void* values) {
  Node& node = *handle_of(descriptor);
  if (node.finalized || count < 1)
    return refuse(CUDNN_STATUS_BAD_PARAM, "an attribute of what is finalized, or of none");
  if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR) {
    std::vector<Handle>& to = node.nodes[name];
    to.clear();
    const auto* others = static_cast<const cudnnBackendDescriptor_t*>(values);
    for (const auto other : std::span(others, static_cast<std::size_t>(count))) {
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
                                       cudnnBackendAttributeType_t, std::int64_t asked_for, std::int64_t* count,
                                       void* values) {
  const Handle& node = handle_of(descriptor);
  if (!node->finalized) return refuse(CUDNN_STATUS_BAD_PARAM, "what is not finalized");
  *count = 1;
  if (name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE) {
    *static_cast<std::int64_t*>(values) = kWorkspace;
  } else if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS) {  // two, of which the first is not to be taken
    *count = 2;
    const auto* results = static_cast<cudnnBackendDescriptor_t*>(values);
    for (std::int64_t i = 0; i < std::min(asked_for, *count); ++i) {
      Handle& configuration = handle_of(results[i]);
      configuration->nodes[CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH] =
          node->nodes.at(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
      if (i == 0) configuration->values[CUDNN_ATTR_ENGINE_NUMERICAL_NOTE] = {};
      configuration->finalized = true;
    }
  } else if (name == CUDNN_ATTR_ENGINECFG_ENGINE) {
    handle_of(*static_cast<cudnnBackendDescriptor_t*>(values)) = node;
  } else if (name == CUDNN_ATTR_ENGINE_NUMERICAL_NOTE) {
    auto* notes = static_cast<cudnnBackendNumericalNote_t*>(values);
    notes[0] = CUDNN_NUMERICAL_NOTE_TENSOR_CORE;
    if (node->has(name)) notes[(*count)++] = CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC;
  }
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
  Node& node = *handle_of(descriptor);
  for (const int attribute : needed_by(node.type)) {
    if (node.has(attribute)) continue;
    return refuse(CUDNN_STATUS_BAD_PARAM, "attribute " + std::to_string(attribute) + " is missing");
  }
  node.finalized = true;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack) {
  if (emulation::is_captured(nullptr)) return refuse(CUDNN_STATUS_NOT_SUPPORTED, "a capture, which is not emulated");
  const Node& arguments = *handle_of(pack);
  if (!emulation::is_device_memory(arguments.value<void*>(CUDNN_ATTR_VARIANT_PACK_WORKSPACE))) {
    return refuse(CUDNN_STATUS_BAD_PARAM, "the workspace");
  }
  const Node& configuration = handle_of(plan)->node(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
  if (configuration.has(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE))
    return refuse(CUDNN_STATUS_NOT_SUPPORTED, "other bits each time");
  return emulation::run_graph(configuration.node(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH), arguments, last_error);
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
