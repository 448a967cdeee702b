#include "tapecache/ops/cuda/cudnn_graph.h"

#include <algorithm>
#include <array>

namespace tapecache::kernels::cuda {

namespace {

Descriptor described(std::int64_t id, const CudnnGraph::Sizes& sizes, const CudnnGraph::Sizes& strides,
                     cudnnDataType_t type, bool is_virtual, bool of_host = false) {
  const std::int64_t alignment = !is_virtual && type == CUDNN_DATA_FLOAT ? sizeof(float) : kCudnnAlignment;
  Descriptor tensor(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  tensor.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, id)
      .set(CUDNN_ATTR_TENSOR_DATA_TYPE, type)
      .set(CUDNN_ATTR_TENSOR_DIMENSIONS, std::span<const std::int64_t>(sizes))
      .set(CUDNN_ATTR_TENSOR_STRIDES, std::span<const std::int64_t>(strides))
      .set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, alignment)
      .set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, is_virtual)
      .set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, of_host)
      .finalize("describing a tensor to cuDNN");
  return tensor;
}

CudnnGraph::Sizes contiguous(const CudnnGraph::Sizes& sizes) {
  return {sizes[1] * sizes[2] * sizes[3], sizes[2] * sizes[3], sizes[3], 1};
}

CudnnGraph::Sizes exchanged(CudnnGraph::Sizes sizes) {
  std::swap(sizes[2], sizes[3]);
  return sizes;
}

std::int64_t count_of(const Descriptor& from, cudnnBackendAttributeName_t name) {
  std::int64_t count = 0;
  check(cudnn()->get_attribute(from.get(), name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, &count, nullptr),
        "asking for plans");
  return count;
}

/// Whether an engine says of itself that it gives the same bits each time, or does not say that it does not.
bool is_deterministic(const Descriptor& configuration) {
  constexpr std::int64_t kMaxNotes = 64;
  const Descriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  cudnnBackendDescriptor_t of_configuration = engine.get();
  std::array<cudnnBackendNumericalNote_t, kMaxNotes> notes{};
  std::int64_t count = 0;
  const CudnnFunctions& f = *cudnn();
  const bool known = f.get_attribute(configuration.get(), CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                                     &count, &of_configuration) == CUDNN_STATUS_SUCCESS &&
                     f.get_attribute(engine.get(), CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                                     kMaxNotes, &count, notes.data()) == CUDNN_STATUS_SUCCESS;
  const auto end = notes.begin() + std::min(count, kMaxNotes);
  return known && std::find(notes.begin(), end, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) == end;
}

}  // namespace

CudnnGraph::Operand CudnnGraph::keep(Descriptor tensor, Sizes sizes) {
  tensors_.push_back(std::move(tensor));
  return {tensors_.back().get(), sizes};
}

CudnnGraph::Operand CudnnGraph::result(Sizes sizes, cudnnDataType_t type, const std::optional<Sizes>& strides) {
  return keep(described(next_id_++, sizes, strides ? *strides : contiguous(sizes), type, true), sizes);
}

void CudnnGraph::append(Descriptor operation, const char* what) {
  operation.finalize(what);
  operations_.push_back(std::move(operation));
}

CudnnGraph::Operand CudnnGraph::tensor(std::int64_t id, Sizes sizes, Sizes strides, cudnnDataType_t type) {
  return keep(described(id, sizes, strides, type, false), sizes);
}

CudnnGraph::Operand CudnnGraph::number(std::int64_t id) {
  return keep(described(id, {1, 1, 1, 1}, {1, 1, 1, 1}, CUDNN_DATA_FLOAT, false, true), {1, 1, 1, 1});
}

CudnnGraph::Operand CudnnGraph::product(const Operand& a, const Operand& b) {
  const Operand to = result({a.sizes[0], a.sizes[1], a.sizes[2], b.sizes[3]}, CUDNN_DATA_FLOAT);
  product(a, b, to);
  return to;
}

void CudnnGraph::product(const Operand& a, const Operand& b, const Operand& to) {
  Descriptor how(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  how.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT).finalize("describing a product to cuDNN");
  Descriptor operation(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, a.descriptor)
      .set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, b.descriptor)
      .set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, to.descriptor)
      .set(CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
  append(std::move(operation), "a product in a cuDNN graph");
}

CudnnGraph::Operand CudnnGraph::pointwise(cudnnPointwiseMode_t mode, const Operand& a, const std::optional<Operand>& b,
                                          cudnnDataType_t type) {
  const Operand to = result(a.sizes, type);
  pointwise(mode, a, b, to);
  return to;
}

void CudnnGraph::pointwise(cudnnPointwiseMode_t mode, const Operand& a, const std::optional<Operand>& b,
                           const Operand& to) {
  append_pointwise(mode, {}, a, b, {}, to);
}

CudnnGraph::Operand CudnnGraph::index(const Operand& a, std::int64_t axis) {
  const Operand to = result(a.sizes, CUDNN_DATA_INT32);
  append_pointwise(CUDNN_POINTWISE_GEN_INDEX, axis, a, {}, {}, to);
  return to;
}

CudnnGraph::Operand CudnnGraph::select(const Operand& mask, const Operand& a, const Operand& b) {
  const Operand to = result(a.sizes, CUDNN_DATA_FLOAT);
  append_pointwise(CUDNN_POINTWISE_BINARY_SELECT, {}, a, b, mask, to);
  return to;
}

void CudnnGraph::append_pointwise(cudnnPointwiseMode_t mode, std::optional<std::int64_t> axis, const Operand& a,
                                  const std::optional<Operand>& b, const std::optional<Operand>& mask,
                                  const Operand& to) {
  Descriptor how(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  how.set(CUDNN_ATTR_POINTWISE_MODE, mode)
      .set(CUDNN_ATTR_POINTWISE_MATH_PREC, mode == CUDNN_POINTWISE_CMP_GE ? CUDNN_DATA_BOOLEAN : CUDNN_DATA_FLOAT);
  if (axis) how.set(CUDNN_ATTR_POINTWISE_AXIS, *axis);
  how.finalize("describing an element-wise operation to cuDNN");
  Descriptor operation(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how)
      .set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, a.descriptor);
  if (b) operation.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b->descriptor);
  if (mask) operation.set(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, mask->descriptor);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, to.descriptor);
  append(std::move(operation), "an element-wise operation in a cuDNN graph");
}

CudnnGraph::Operand CudnnGraph::reduce(cudnnReduceTensorOp_t op, const Operand& a) {
  const Operand to = result({a.sizes[0], a.sizes[1], a.sizes[2], 1}, CUDNN_DATA_FLOAT);
  Descriptor how(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  how.set(CUDNN_ATTR_REDUCTION_OPERATOR, op)
      .set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT)
      .finalize("describing a reduction to cuDNN");
  Descriptor operation(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, a.descriptor)
      .set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, to.descriptor)
      .set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
  append(std::move(operation), "a reduction in a cuDNN graph");
  return to;
}

CudnnGraph::Operand CudnnGraph::transpose(const Operand& a, cudnnDataType_t type,
                                          const std::optional<Sizes>& strides_of_a) {
  const Operand to = result(exchanged(a.sizes), type, exchanged(strides_of_a ? *strides_of_a : contiguous(a.sizes)));
  Descriptor operation(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, a.descriptor)
      .set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, to.descriptor);
  append(std::move(operation), "a transposed view in a cuDNN graph");
  return to;
}

std::optional<CudnnPlan> CudnnGraph::plan(cudnnHandle_t handle) const {
  Descriptor graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, handle);
  return plan(std::move(graph), nullptr);
}

std::optional<CudnnPlan> CudnnGraph::plan(const std::string& device_as_json) const {
  Descriptor device(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  device.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, std::span<const char>(device_as_json))
      .finalize("describing a device to cuDNN");
  return plan(Descriptor(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR), &device);
}

std::optional<CudnnPlan> CudnnGraph::plan(Descriptor graph, const Descriptor* device) const {
  std::vector<cudnnBackendDescriptor_t> operations;
  for (const Descriptor& operation : operations_) operations.push_back(operation.get());
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, std::span<const cudnnBackendDescriptor_t>(operations));
  if (graph.try_finalize() != CUDNN_STATUS_SUCCESS) return std::nullopt;
  for (const cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK}) {
    Descriptor heuristics(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph).set(CUDNN_ATTR_ENGINEHEUR_MODE, mode);
    if (device) heuristics.set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, *device);
    if (heuristics.try_finalize() != CUDNN_STATUS_SUCCESS) continue;
    std::vector<Descriptor> configurations;
    std::vector<cudnnBackendDescriptor_t> found;
    for (std::int64_t i = count_of(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS); i > 0; --i) {
      configurations.emplace_back(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
      found.push_back(configurations.back().get());
    }
    std::int64_t count = 0;
    check(cudnn()->get_attribute(heuristics.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                 static_cast<std::int64_t>(found.size()), &count, found.data()),
          "asking cuDNN for plans");
    for (std::int64_t i = 0; i < count; ++i) {
      CudnnPlan plan{std::move(configurations[static_cast<std::size_t>(i)]),
                     Descriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)};
      if (!is_deterministic(plan.configuration)) continue;
      plan.execution.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, plan.configuration);
      if (plan.execution.try_finalize() != CUDNN_STATUS_SUCCESS) continue;
      std::int64_t one = 0;
      check(cudnn()->get_attribute(plan.execution.get(), CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1,
                                   &one, &plan.workspace),
            "asking for a plan's workspace");
      return plan;
    }
  }
  return std::nullopt;
}

void execute(cudnnHandle_t handle, const CudnnPlan& plan, std::span<const CudnnPlan::Argument> arguments,
             void* workspace, const std::string& what) {
  std::vector<std::int64_t> ids;
  std::vector<const void*> addresses;
  for (const CudnnPlan::Argument& argument : arguments) {
    ids.push_back(argument.id);
    addresses.push_back(argument.address);
  }
  Descriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, std::span<const std::int64_t>(ids))
      .set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, std::span<const void* const>(addresses), CUDNN_TYPE_VOID_PTR)
      .set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, std::span<void* const>(&workspace, 1), CUDNN_TYPE_VOID_PTR)
      .finalize("the arguments of a cuDNN plan");
  check(cudnn()->execute(handle, plan.execution.get(), pack.get()), what);
}

}  // namespace tapecache::kernels::cuda
