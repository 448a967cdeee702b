#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
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
  /// Uninitialised elements in page-locked memory of the host, which devices copy from and to beside their computing.
  /// Where there is no CUDA device it is the host's ordinary memory. Throws OutOfMemory.
  static Tensor empty_pinned(const Shape& shape, DType dtype = DType::kFloat32);
  /// Copies the values, of a list in braces, a vector, an array, or a span; their type gives the dtype, and an int is
  /// i32. Throws ShapeError where their number is not that of the shape.
  template <class T>
  static Tensor from(std::span<const T> values, const Shape& shape) {
    return from_bytes(values.data(), values.size(), shape, dtype_of<StoredType<T>>());
  }
  template <class T>
  static Tensor from(std::initializer_list<T> values, const Shape& shape) {
    return from(std::span<const T>(values.begin(), values.size()), shape);
  }
  template <class Values>
  requires requires(const Values& values) { std::span(std::data(values), std::size(values)); }
  static Tensor from(const Values& values, const Shape& shape) {
    using T = std::remove_cvref_t<decltype(*std::data(values))>;
    return from(std::span<const T>(std::data(values), std::size(values)), shape);
  }
  /// A mask. A template, so that no list in braces is taken for a vector.
  template <class Flags>
  requires std::is_same_v<Flags, std::vector<bool>>
  static Tensor from(const Flags& flags, const Shape& shape) { return from_flags(flags, shape); }
  template <class T>
  static Tensor scalar(T value) {
    return from(std::span<const T>(&value, 1), Shape{});
  }

  /// A tensor over memory of the caller's, without a copy: ordinary memory of the host that stays valid until
  /// `release`, which is called once, by whoever drops the last tensor that views it, and must not throw. No allocator
  /// counts it. Where this throws, `release` is not called: the memory is the caller's as before. Changes that go past
  /// the tensor are seen by what reads it next, but do not change its version: checks for changes do not notice them,
  /// nor do copies that an Autocast or a cached step keeps of a parameter. `move_to` leaves the memory, and releases
  /// it. Of bool, each byte is 0 or 1. What is const is for `from` to copy, and page-locked memory is for
  /// `empty_pinned` to make. Throws ValueError for an address that is null or not aligned to the element type, unless
  /// the shape has no elements.
  static Tensor wrap(void* memory, const Shape& shape, DType dtype, std::function<void()> release = {});
  template <class T>
  static Tensor wrap(T* elements, const Shape& shape,
                     std::function<void()> release = {}) requires(!std::is_const_v<T>) {
    return wrap(elements, shape, dtype_of<T>(), std::move(release));
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
  /// The same where one size may be -1: it is what the number of elements leaves for it. Throws ShapeError where it
  /// leaves none, as beside an axis of size 0, and for a second -1.
  Tensor reshape(std::initializer_list<std::int64_t> sizes) const;
  /// Rows [begin, end) of axis 0, sharing storage. Throws ShapeError outside the axis.
  Tensor slice(std::int64_t begin, std::int64_t end) const;

  /// A copy with storage of its own.
  Tensor clone() const;
  /// Elements converted; the same handle where nothing changes. A float becomes an integer by what is before its point,
  /// the nearest limit of the type beyond its range, and 0 where it is NaN; a wider integer keeps its lower bits. As a
  /// bool all but 0 is true, NaN too.
  Tensor to(DType dtype) const;
  /// A copy on another device; the same handle where it is there already. A copy to the host waits for the device.
  Tensor to(Device device) const;
  /// A copy in page-locked memory of the host; the same handle where it is there already, or where there is no CUDA
  /// device and the tensor is on the host.
  Tensor pinned() const;
  bool is_pinned() const { return storage().pinned(); }
  /// As `to`, but the copy is made beside what the device computes next: this returns at once, and the first that uses
  /// the result, the host or a device, waits for the copy, as does the first that writes to this tensor. A copy to the
  /// host is in page-locked memory, and one from other memory goes through such. Pointers that were taken before wait
  /// for nothing.
  Tensor to_async(Device device) const;
  /// Moves the storage itself, and with it all tensors that view it, to another device: what holds a handle to a
  /// model's weights then finds them there. Throws, before anything is changed, DeviceError or OutOfMemory.
  void move_to(Device device) { storage().move_to(device); }
  /// Takes the memory of a tensor of the host of equal shape and dtype, whose own this one's then is: without a copy,
  /// and with all tensors that view either. Returns whether it could, which is where each is all of its storage, and
  /// ordinary memory.
  bool swap_memory(Tensor& other);
  /// Copies elements from a tensor of equal shape, dtype and device, which may overlap. Throws on any difference.
  void copy_from(const Tensor& source);
  /// The same from a tensor on any device, as `to_async` does where one of the two is on a device and the other in
  /// page-locked memory; else it waits.
  void copy_from_async(const Tensor& source);
  void fill(double value);
  /// Adds the elements of a floating tensor of equal shape, dtype and device, which may overlap, in place. Throws on
  /// any difference.
  void accumulate(const Tensor& source);

  /// The only element, converted to double. Throws ShapeError where there is not exactly one.
  double item() const;
  template <class T>
  std::vector<T> to_vector() const {
    const Tensor host = to(Device::cpu());
    const auto* p = host.data<StoredType<T>>();
    return std::vector<T>(p, p + numel());
  }

  /// Changes whenever the storage is opened for writing.
  std::uint64_t version() const { return storage().version(); }
  /// Whether both tensors view the same storage.
  bool shares_storage(const Tensor& other) const { return storage_ == other.storage_; }
  /// Where in the storage it begins, in bytes.
  std::size_t offset() const { return offset_; }
  /// The storage, for who must not keep it.
  std::weak_ptr<const Storage> weak_storage() const { return storage_; }
  /// Whether no other tensor views this storage.
  bool owns_storage_alone() const { return storage_.use_count() == 1; }
  /// Whether it is, or views, what `wrap` gave: its memory is not the library's to write to unasked.
  bool is_wrapped() const { return storage_ && storage_->wrapped(); }

 private:
  static Tensor from_flags(const std::vector<bool>& flags, const Shape& shape);
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
