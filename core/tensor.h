#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tapecache/core/device.h"
#include "tapecache/core/dtype.h"
#include "tapecache/core/shape.h"
#include "tapecache/core/storage.h"

namespace tapecache {

/// A handle to shared storage: offset, shape, dtype, device. Always row-major and contiguous. Copying a Tensor
/// copies the handle; `clone` copies the elements.
class Tensor {
 public:
  /// An undefined tensor; every use but `defined()` throws.
  Tensor() = default;

  /// Uninitialised elements. Throws OutOfMemory.
  static Tensor empty(const Shape& shape, DType dtype = DType::kFloat32, Device device = Device::cpu());
  static Tensor zeros(const Shape& shape, DType dtype = DType::kFloat32, Device device = Device::cpu());
  static Tensor full(const Shape& shape, double value, DType dtype = DType::kFloat32, Device device = Device::cpu());
  /// Uninitialised elements in page-locked memory of the host, which devices copy from and to beside their computing. Where
  /// there is no CUDA device it is the host's ordinary memory. Throws OutOfMemory.
  static Tensor empty_pinned(const Shape& shape, DType dtype = DType::kFloat32);
  /// Copies the values. Throws ShapeError where their number is not that of the shape.
  template <class T>
  static Tensor from(std::span<const T> values, const Shape& shape) {
    return from_bytes(values.data(), values.size(), shape, dtype_of<T>());
  }
  template <class T>
  static Tensor from(const std::vector<T>& values, const Shape& shape) {
    return from(std::span<const T>(values), shape);
  }
  template <class T>
  static Tensor scalar(T value) {
    return from(std::span<const T>(&value, 1), Shape{});
  }

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  /// Size of an axis; negative axes count from the end.
  std::int64_t size(int axis) const { return shape_[axis]; }
  std::int64_t numel() const { return shape_.numel(); }
  DType dtype() const { return dtype_; }
  /// Throws Error for an undefined tensor.
  Device device() const { return storage().device(); }
  std::size_t bytes() const { return static_cast<std::size_t>(numel()) * size_of(dtype_); }

  /// The elements. Throws DTypeError where T is not the tensor's type.
  template <class T>
  const T* data() const {
    return static_cast<const T*>(typed_data(dtype_of<T>(), Storage::Use::kRead));
  }
  /// The elements for writing; counts as a change of the storage.
  template <class T>
  T* mutable_data() {
    void* p = typed_data(dtype_of<T>(), Storage::Use::kWrite);
    storage_->bump_version();
    return static_cast<T*>(p);
  }
  /// The elements as bytes, whatever their type.
  const std::byte* raw() const;
  std::byte* mutable_raw();

  /// The same elements under another shape. Throws ShapeError where the number of elements differs.
  Tensor reshape(const Shape& shape) const;
  /// Rows [begin, end) of axis 0, sharing storage. Throws ShapeError outside the axis.
  Tensor slice(std::int64_t begin, std::int64_t end) const;

  /// A copy with storage of its own.
  Tensor clone() const;
  /// Elements converted; the same handle where nothing changes. Converting to an integer truncates.
  Tensor to(DType dtype) const;
  /// A copy on another device; the same handle where it is there already. A copy to the host waits for the device.
  Tensor to(Device device) const;
  /// A copy in page-locked memory of the host; the same handle where it is there already, or where there is no CUDA device
  /// and the tensor is on the host.
  Tensor pinned() const;
  bool is_pinned() const { return storage().pinned(); }
  /// As `to`, but the copy is made beside what the device computes next: this returns at once, and the first that uses the
  /// result, the host or a device, waits for the copy, as does the first that writes to this tensor. A copy to the host is
  /// in page-locked memory, and one from other memory goes through such. Pointers that were taken before wait for nothing.
  Tensor to_beside(Device device) const;
  /// Moves the storage itself, and with it all tensors that view it, to another device: what holds a handle to a model's
  /// weights then finds them there. Throws, before anything is changed, DeviceError or OutOfMemory.
  void move_to(Device device) { storage().move_to(device); }
  /// Copies elements from a tensor of equal shape, dtype and device. Throws on any difference.
  void copy_from(const Tensor& source);
  /// The same from a tensor on any device, as `to_beside` does where one of the two is on a device and the other in
  /// page-locked memory; else it waits.
  void copy_from_beside(const Tensor& source);
  void fill(double value);
  /// Adds the elements of a floating tensor of equal shape, dtype and device in place. Throws on any difference.
  void accumulate(const Tensor& source);

  /// The only element, converted to double. Throws ShapeError where there is not exactly one.
  double item() const;
  template <class T>
  std::vector<T> to_vector() const {
    const Tensor host = to(Device::cpu());
    const T* p = host.data<T>();
    return std::vector<T>(p, p + numel());
  }

  /// Changes whenever the storage is opened for writing.
  std::uint64_t version() const { return storage().version(); }
  /// Whether both tensors view the same storage.
  bool shares_storage(const Tensor& other) const { return storage_ == other.storage_; }
  /// The storage, for who must not keep it.
  std::weak_ptr<const Storage> weak_storage() const { return storage_; }
  /// Whether no other tensor views this storage.
  bool owns_storage_alone() const { return storage_.use_count() == 1; }

 private:
  static Tensor from_bytes(const void* values, std::size_t count, const Shape& shape, DType dtype);
  void* typed_data(DType requested, Storage::Use use) const;
  Storage& storage() const;

  std::shared_ptr<Storage> storage_;
  std::size_t offset_ = 0;
  Shape shape_;
  DType dtype_ = DType::kFloat32;
};

/// Index of the first NaN or Inf of a floating tensor, or -1; -1 too for other types.
std::int64_t first_non_finite(const Tensor& tensor);

/// "float32 [2, 3] on cpu".
std::string describe(const Tensor& tensor);

}  // namespace tapecache
