#pragma once

#include <array>
#include <atomic>
#include <cstddef>
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
#include "tapecache/core/error.h"

namespace tapecache {

/// The sizes of a tensor's axes, at most kMaxRank of them. Rank 0 is a scalar with one element.
class Shape {
 public:
  static constexpr int kMaxRank = 6;

  Shape() = default;
  /// Throws ShapeError on a negative size, more than kMaxRank axes, or more than 2^59 elements.
  Shape(std::initializer_list<std::int64_t> sizes);
  explicit Shape(std::span<const std::int64_t> sizes);

  int rank() const { return rank_; }
  /// Product of all sizes.
  std::int64_t numel() const;
  /// Size of an axis; negative axes count from the end. Throws ShapeError where there is no such axis.
  std::int64_t operator[](int axis) const { return sizes_[static_cast<std::size_t>(normalize_axis(axis))]; }
  /// The axis as a number in [0, rank). Throws ShapeError where there is no such axis.
  int normalize_axis(int axis) const;
  /// Product of the sizes of axes [begin, end). Throws ShapeError where there are no such axes.
  std::int64_t product(int begin, int end) const;
  /// This shape with one axis set to another size.
  Shape with(int axis, std::int64_t size) const;
  /// This shape without one axis.
  Shape without(int axis) const;
  /// This shape with a new axis of the given size put before `axis`.
  Shape inserted(int axis, std::int64_t size) const;
  /// The shape that both operands of `op` broadcast to, aligned at the last axis. Throws ShapeError naming `op` if they
  /// do not broadcast.
  static Shape broadcast(const char* op, const Shape& a, const Shape& b);
  /// These sizes, one of which may be -1: it is then computed from the number of elements of `from`. Throws ShapeError
  /// naming `op` if it cannot be computed, as beside an axis of size 0, and for a second -1.
  static Shape inferred(const char* op, std::initializer_list<std::int64_t> sizes, const Shape& from);

  const std::int64_t* begin() const { return sizes_.data(); }
  const std::int64_t* end() const { return sizes_.data() + rank_; }

  bool operator==(const Shape& other) const;

 private:
  std::array<std::int64_t, kMaxRank> sizes_{};
  int rank_ = 0;
};

/// "[2, 3]"; a scalar is "[]".
std::string to_string(const Shape& shape);

namespace detail {

/// The end of a copy that a device makes while it computes something else.
using CopyEvent = std::shared_ptr<void>;

class GraphCopies;

/// One block of a device's memory, or host memory that a program wraps. Tensors that view it share it, and it is freed
/// or released with the last of them.
///
/// Asynchronous copies may be reading or writing the memory. Whoever is about to use it calls wait_pending_copies()
/// first. For host memory, the host then waits for the copies; for a device's, the work that the device is given next
/// does.
class Storage {
 public:
  enum class Use { kRead, kWrite };

  /// Allocates memory on the device. Host memory is page-locked if `pinned` is set and there is a CUDA device. Throws
  /// OutOfMemory.
  Storage(std::size_t bytes, Device device, bool pinned = false);
  /// Wraps host memory that is not the allocator's. `release`, which must not throw, is called once, when this storage
  /// is destroyed or moves to a device.
  Storage(void* memory, std::size_t bytes, std::function<void()> release) noexcept;
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  Device device() const { return device_; }
  bool pinned() const { return pinned_; }
  /// Whether the memory is wrapped; then other storages may wrap it too.
  bool wrapped() const { return wrapped_; }
  /// Moves the contents to another device, and with them every tensor that views them; this counts as a change. Throws
  /// DeviceError or OutOfMemory before anything is changed.
  void move_to(Device device);

  /// Exchanges memory with another storage of the host of the same size; this counts as a change of both. Throws
  /// DeviceError before anything is changed.
  void swap_memory(Storage& other);

  /// Puts what follows after the copies under way: before a read after those into the memory, before a write also after
  /// those out of it. Throws DeviceError if one of them failed.
  void wait_pending_copies(Use use) {
    if (copying_.load(std::memory_order_acquire)) wait_for_copies(use);
  }
  /// Starts an asynchronous copy of `bytes` bytes from one storage to another, of which one is in page-locked memory
  /// and the other on a device.
  static void copy_async(const std::shared_ptr<Storage>& from, std::size_t from_offset,
                         const std::shared_ptr<Storage>& to, std::size_t to_offset, std::size_t bytes);

  /// For each replay of a captured step that copies from or into this host memory, which copy_async() does not see:
  /// `begin_replay` puts the replay after the copies under way, and `end_replay` tells the event with which it ends.
  void begin_replay(int device);
  void end_replay(int device, Use use, const CopyEvent& end);

  /// Counts the times the contents were opened for writing.
  std::uint64_t version() const { return version_; }
  void bump_version() { ++version_; }

 private:
  friend class GraphCopies;

  void wait_for_copies(Use use);
  void wait_for_captured_copies(Use use);
  void wait_for_made_copies(Use use);
  static void end_capture(const GraphCopies& captured);
  void note(const CopyEvent& copy, int device, Use use);
  static void note_captured(GraphCopies& captured, const std::shared_ptr<Storage>& storage, Use use,
                            const CopyEvent& copy);
  void exchange(Storage& other) noexcept;
  void free() noexcept;

  std::byte* data_;
  std::size_t bytes_;
  Device device_;
  bool pinned_, wrapped_ = false;
  std::function<void()> release_;  // of wrapped memory; may be empty
  std::uint64_t version_ = 0;
  // A device makes its copies one after another, so that the end of the last is the end of all.
  std::atomic<bool> copying_ = false;
  CopyEvent last_copy_, last_copy_into_;
  int copying_device_ = 0;
  GraphCopies* captured_by_ = nullptr;  // lists the copies of a capture that is under way
};

}  // namespace detail

/// An n-dimensional array: a handle to shared storage with an offset, a shape, a dtype and a device. Always row-major
/// and contiguous. Copying a Tensor copies the handle; `clone` copies the elements.
class Tensor {
 public:
  /// An undefined tensor; every use but `defined()` throws.
  Tensor() = default;

  /// Uninitialised elements. Throws OutOfMemory.
  static Tensor empty(const Shape& shape, DType dtype = DType::kFloat32, Device device = Device::cpu());
  static Tensor zeros(const Shape& shape, DType dtype = DType::kFloat32, Device device = Device::cpu());
  static Tensor full(const Shape& shape, double value, DType dtype = DType::kFloat32, Device device = Device::cpu());
  /// Uninitialised elements in page-locked host memory, which a GPU can copy from and to while it computes. Without a
  /// CUDA device this is ordinary host memory. Throws OutOfMemory.
  static Tensor empty_pinned(const Shape& shape, DType dtype = DType::kFloat32);
  /// Copies values from a braced list, a vector, an array or a span. The dtype follows from the element type (int is
  /// i32). Throws ShapeError if the number of values differs from the shape's.
  template <class T>
  static Tensor from(std::span<const T> values, const Shape& shape) {
    return from_bytes(values.data(), values.size(), shape, dtype_of<detail::StoredType<T>>());
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
  /// Makes a bool mask. This is a template so that a braced list is not taken for a std::vector<bool>.
  template <class Flags>
  requires std::is_same_v<Flags, std::vector<bool>>
  static Tensor from(const Flags& flags, const Shape& shape) { return from_flags(flags, shape); }
  template <class T>
  static Tensor scalar(T value) {
    return from(std::span<const T>(&value, 1), Shape{});
  }

  /// Makes a tensor over the caller's host memory without copying it. The memory must stay valid until `release` is
  /// called; that happens once, when the last tensor that views the memory is destroyed, and must not throw. If `wrap`
  /// itself throws, `release` is not called and the memory still belongs to the caller. Allocator statistics do not
  /// count this memory.
  ///
  /// Writes that bypass the tensor are visible to the next read, but do not change `version()`: checks for changed
  /// inputs do not notice them, and neither do the copies of a parameter that an Autocast or a cached step keeps.
  /// `move_to` copies the elements away and releases the memory. Bytes of a bool tensor must be 0 or 1. Const memory
  /// cannot be wrapped (copy it by `from`), nor can page-locked memory (use `empty_pinned`). Throws ValueError for an
  /// address that is null or not aligned to the element type, unless the shape has no elements.
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

  /// The elements. Throws DTypeError if T is not the tensor's type.
  template <class T>
  const T* data() const {
    return static_cast<const T*>(typed_data(dtype_of<T>(), detail::Storage::Use::kRead));
  }
  /// The elements for writing. Counts as a change: `version()` goes up.
  template <class T>
  T* mutable_data() {
    void* p = typed_data(dtype_of<T>(), detail::Storage::Use::kWrite);
    storage_->bump_version();
    return static_cast<T*>(p);
  }
  /// The elements as bytes, whatever their type.
  const std::byte* raw() const;
  std::byte* mutable_raw();

  /// Views the same elements under another shape. Throws ShapeError if the number of elements differs.
  Tensor reshape(const Shape& shape) const;
  /// The same, where one size may be -1 and is then computed from the number of elements. Throws ShapeError if it
  /// cannot be computed, as beside an axis of size 0, and for a second -1.
  Tensor reshape(std::initializer_list<std::int64_t> sizes) const;
  /// Rows [begin, end) of axis 0, sharing storage. Throws ShapeError outside the axis.
  Tensor slice(std::int64_t begin, std::int64_t end) const;

  /// Copies the elements into new storage.
  Tensor clone() const;
  /// Converts the elements, or returns the same handle if the dtype is already right. Floats are converted to integers
  /// by truncation towards zero and saturate at the type's limits; NaN becomes 0. A wider integer keeps its lower bits.
  /// As bools, all values but 0 are true, NaN included.
  Tensor to(DType dtype) const;
  /// Copies to another device, or returns the same handle if the tensor is there already. A copy to the host waits for
  /// the device.
  Tensor to(Device device) const;
  /// Copies to page-locked host memory, or returns the same handle if the tensor is there already, or is on the host of
  /// a machine without a CUDA device.
  Tensor pinned() const;
  bool is_pinned() const { return storage().pinned(); }
  /// As `to`, but returns at once, and the copy overlaps with what the device computes next. The first use of the
  /// result, on the host or a device, waits for the copy, and so does the first write to this tensor. A copy to the
  /// host is made in page-locked memory; a copy from pageable memory is staged through it. Raw pointers taken earlier
  /// do not wait.
  Tensor to_async(Device device) const;
  /// Moves the storage itself to another device, and with it every tensor that views it: all handles to a model's
  /// weights then refer to the new device. Throws DeviceError or OutOfMemory before anything is changed.
  void move_to(Device device) { storage().move_to(device); }
  /// Exchanges memory with another host tensor of equal shape and dtype without copying; all views of either follow.
  /// Returns false, and does nothing, unless each tensor covers its whole storage and lies in ordinary memory.
  bool swap_memory(Tensor& other);
  /// Copies elements from a tensor of equal shape, dtype and device, which may overlap this one. Throws on any
  /// difference.
  void copy_from(const Tensor& source);
  /// The same from a tensor on any device. Asynchronous, as `to_async` is, if one of the two is on a device and the
  /// other in page-locked memory; otherwise it waits.
  void copy_from_async(const Tensor& source);
  void fill(double value);
  /// Adds, in place, the elements of a floating tensor of equal shape, dtype and device, which may overlap this one.
  /// Throws on any difference.
  void accumulate(const Tensor& source);

  /// The only element, converted to double. Throws ShapeError unless there is exactly one.
  double item() const;
  template <class T>
  std::vector<T> to_vector() const {
    const Tensor host = to(Device::cpu());
    const auto* p = host.data<detail::StoredType<T>>();
    return std::vector<T>(p, p + numel());
  }

  /// Changes whenever the storage is opened for writing.
  std::uint64_t version() const { return storage().version(); }
  /// Whether both tensors view the same storage.
  bool shares_storage(const Tensor& other) const { return storage_ == other.storage_; }
  /// Where in the storage it begins, in bytes.
  std::size_t offset() const { return offset_; }
  /// The storage without keeping it alive.
  std::weak_ptr<const detail::Storage> weak_storage() const { return storage_; }
  /// Whether no other tensor views this storage.
  bool owns_storage_alone() const { return storage_.use_count() == 1; }
  /// Whether the memory was passed to `wrap`. It belongs to the program: the library writes to it only when asked to.
  bool is_wrapped() const { return storage_ && storage_->wrapped(); }

 private:
  static Tensor from_flags(const std::vector<bool>& flags, const Shape& shape);
  static Tensor from_bytes(const void* values, std::size_t count, const Shape& shape, DType dtype);
  void* typed_data(DType requested, detail::Storage::Use use) const;
  detail::Storage& storage() const;

  std::shared_ptr<detail::Storage> storage_;
  std::size_t offset_ = 0;
  Shape shape_;
  DType dtype_ = DType::kFloat32;
};

/// "float32 [2, 3] on cpu".
std::string describe(const Tensor& tensor);

}  // namespace tapecache
