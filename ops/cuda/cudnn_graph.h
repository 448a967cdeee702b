#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "tapecache/ops/cuda/cudnn_library.h"

namespace tapecache::kernels::cuda {

/// How cuDNN calls the type of an attribute's value.
template <class T>
constexpr cudnnBackendAttributeType_t kAttributeType =
    std::is_same_v<T, std::int64_t>             ? CUDNN_TYPE_INT64
    : std::is_same_v<T, bool>                   ? CUDNN_TYPE_BOOLEAN
    : std::is_same_v<T, char>                   ? CUDNN_TYPE_CHAR
    : std::is_same_v<T, cudnnHandle_t>          ? CUDNN_TYPE_HANDLE
    : std::is_same_v<T, cudnnDataType_t>        ? CUDNN_TYPE_DATA_TYPE
    : std::is_same_v<T, cudnnPointwiseMode_t>   ? CUDNN_TYPE_POINTWISE_MODE
    : std::is_same_v<T, cudnnReduceTensorOp_t>  ? CUDNN_TYPE_REDUCTION_OPERATOR_TYPE
    : std::is_same_v<T, cudnnBackendHeurMode_t> ? CUDNN_TYPE_HEUR_MODE
                                                : CUDNN_TYPE_BACKEND_DESCRIPTOR;

/// Bytes that the addresses of tensors of 16 bits are multiples of.
constexpr std::int64_t kCudnnAlignment = 16;

/// One of cuDNN's descriptors. Attributes are set until it is finalized. Failures throw DeviceError.
class Descriptor {
 public:
  explicit Descriptor(cudnnBackendDescriptorType_t type) {
    check(cudnn()->create_descriptor(type, &descriptor_), "making a descriptor");
  }
  Descriptor(Descriptor&& other) noexcept : descriptor_(std::exchange(other.descriptor_, nullptr)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~Descriptor() {
    if (descriptor_) cudnn()->destroy_descriptor(descriptor_);
  }

  cudnnBackendDescriptor_t get() const { return descriptor_; }

  template <class T>
  Descriptor& set(cudnnBackendAttributeName_t name, std::span<const T> values,
                  cudnnBackendAttributeType_t type = kAttributeType<T>) {
    check(cudnn()->set_attribute(descriptor_, name, type, static_cast<std::int64_t>(values.size()), values.data()),
          "attribute " + std::to_string(name) + " of a descriptor");
    return *this;
  }
  template <class T>
  Descriptor& set(cudnnBackendAttributeName_t name, const T& value) {
    return set(name, std::span<const T>(&value, 1));
  }
  Descriptor& set(cudnnBackendAttributeName_t name, const Descriptor& other) { return set(name, other.descriptor_); }

  cudnnStatus_t try_finalize() { return cudnn()->finalize(descriptor_); }
  Descriptor& finalize(const char* what) {
    check(try_finalize(), what);
    return *this;
  }

 private:
  cudnnBackendDescriptor_t descriptor_ = nullptr;
};

/// What cuDNN runs a graph by.
struct CudnnPlan {
  /// The number of a tensor and its address: of the device, or of the host for one that is a number.
  struct Argument {
    std::int64_t id;
    const void* address;
  };

  Descriptor configuration, execution;
  std::int64_t workspace = 0;  ///< bytes
};

/// An operation of cuDNN's on tensors [batch, heads, rows, columns], put together from small ones that it fuses: what a
/// small one gives is never in memory, unless it is told where to go. Failures throw DeviceError.
class CudnnGraph {
 public:
  using Sizes = std::array<std::int64_t, 4>;
  /// What an operation takes and gives.
  struct Operand {
    cudnnBackendDescriptor_t descriptor;
    Sizes sizes;
  };

  /// A tensor in memory, whose address is given with each run under this number: a multiple of 16 bytes, or of 4 for
  /// f32.
  Operand tensor(std::int64_t id, Sizes sizes, Sizes strides, cudnnDataType_t type);
  /// An f32 of the host, given with each run.
  Operand number(std::int64_t id);

  Operand product(const Operand& a, const Operand& b);
  void product(const Operand& a, const Operand& b, const Operand& to);
  /// Element by element, where b's axes of size 1 are spread.
  Operand pointwise(cudnnPointwiseMode_t, const Operand& a, const std::optional<Operand>& b = {},
                    cudnnDataType_t type = CUDNN_DATA_FLOAT);
  void pointwise(cudnnPointwiseMode_t, const Operand& a, const std::optional<Operand>& b, const Operand& to);
  /// Each element's place along an axis, as i32.
  Operand index(const Operand& a, std::int64_t axis);
  /// `a` where the mask is true, else `b`.
  Operand select(const Operand& mask, const Operand& a, const Operand& b);
  /// Over the columns.
  Operand reduce(cudnnReduceTensorOp_t, const Operand& a);
  /// Rows and columns exchanged, of a virtual result or of a tensor with these strides.
  Operand transpose(const Operand& a, cudnnDataType_t type, const std::optional<Sizes>& strides_of_a = {});

  /// The first plan that cuDNN's heuristics propose and that can be made, for the handle's device.
  std::optional<CudnnPlan> plan(cudnnHandle_t handle) const;
  /// The same for a device that need not be there.
  std::optional<CudnnPlan> plan(const std::string& device_as_json) const;

 private:
  Operand keep(Descriptor tensor, Sizes sizes);
  Operand result(Sizes sizes, cudnnDataType_t type, const std::optional<Sizes>& strides = {});
  void append_pointwise(cudnnPointwiseMode_t, std::optional<std::int64_t> axis, const Operand& a,
                        const std::optional<Operand>& b, const std::optional<Operand>& mask, const Operand& to);
  void append(Descriptor operation, const char* what);
  std::optional<CudnnPlan> plan(Descriptor graph, const Descriptor* device) const;

  std::vector<Descriptor> tensors_, operations_;
  std::int64_t next_id_ = 1000;
};

/// Puts a run in the handle's stream. Each tensor of the graph has its argument.
void execute(cudnnHandle_t handle, const CudnnPlan& plan, std::span<const CudnnPlan::Argument> arguments,
             void* workspace, const std::string& what);

}  // namespace tapecache::kernels::cuda
