#include "tapecache/core/tensor.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include <fmt/format.h>

#include "tapecache/core/captured_step.h"
#include "tapecache/core/device_backend.h"
#include "tapecache/core/element.h"
#include "tapecache/core/op_scope.h"

namespace tapecache {

namespace {

void require_same(const char* op, const Tensor& source, const Tensor& destination) {
  const bool same = source.defined() && destination.defined() && source.shape() == destination.shape() &&
                    source.dtype() == destination.dtype() && source.device() == destination.device();
  if (!same) {
    throw ShapeError(fmt::format("{}: source is {}, destination {}", op, describe(source), describe(destination)));
  }
}

/// Whether the ranges of `bytes` bytes that begin at a and at b overlap.
bool overlap(const std::byte* a, const std::byte* b, std::size_t bytes) {
  const auto first = reinterpret_cast<std::uintptr_t>(a), second = reinterpret_cast<std::uintptr_t>(b);
  return (first < second ? second - first : first - second) < bytes;
}

}  // namespace

Tensor Tensor::empty(const Shape& shape, DType dtype, Device device) {
  Tensor t;
  t.shape_ = shape;
  t.dtype_ = dtype;
  t.storage_ = std::make_shared<detail::Storage>(t.bytes(), device);
  return t;
}

Tensor Tensor::empty_pinned(const Shape& shape, DType dtype) {
  Tensor t;
  t.shape_ = shape;
  t.dtype_ = dtype;
  t.storage_ = std::make_shared<detail::Storage>(t.bytes(), Device::cpu(), true);
  return t;
}

Tensor Tensor::zeros(const Shape& shape, DType dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  t.fill(0);
  return t;
}

Tensor Tensor::full(const Shape& shape, double value, DType dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  t.fill(value);
  return t;
}

Tensor Tensor::from_bytes(const void* values, std::size_t count, const Shape& shape, DType dtype) {
  if (static_cast<std::size_t>(shape.numel()) != count) {
    throw ShapeError(
        fmt::format("tensor: {} values for shape {}, which has {} elements", count, to_string(shape), shape.numel()));
  }
  Tensor t = empty(shape, dtype);
  if (count > 0) std::memcpy(t.mutable_raw(), values, t.bytes());
  return t;
}

Tensor Tensor::from_flags(const std::vector<bool>& flags, const Shape& shape) {
  const std::unique_ptr<bool[]> bytes(new bool[flags.size()]);
  std::copy(flags.begin(), flags.end(), bytes.get());
  return from_bytes(bytes.get(), flags.size(), shape, DType::kBool);
}

bool Tensor::swap_memory(Tensor& other) {
  const auto is_whole = [](const Tensor& t) {
    const detail::Storage& own = t.storage();
    return own.device().is_cpu() && !own.pinned() && t.offset_ == 0 && t.bytes() == own.bytes();
  };
  if (shape_ != other.shape_ || dtype_ != other.dtype_ || !is_whole(*this) || !is_whole(other) ||
      shares_storage(other)) {
    return false;
  }
  storage_->swap_memory(*other.storage_);
  return true;
}

Tensor Tensor::wrap(void* memory, const Shape& shape, DType dtype, std::function<void()> release) {
  Tensor t;
  t.shape_ = shape;
  t.dtype_ = dtype;
  if (t.numel() > 0) {
    if (!memory)
      throw ValueError(fmt::format("wrap: memory is null, expected {} bytes for {}", t.bytes(), to_string(shape)));
    // Types are aligned to their size. Kernels need no more, since rows of a view may start anywhere.
    if (reinterpret_cast<std::uintptr_t>(memory) % size_of(dtype) != 0) {
      throw ValueError(fmt::format("wrap: memory is at {}, expected a multiple of {} bytes for {}", memory,
                                   size_of(dtype), name(dtype)));
    }
  }
  t.storage_ = std::make_shared<detail::Storage>(memory, t.bytes(), std::move(release));
  return t;
}

detail::Storage& Tensor::storage() const {
  if (!storage_) throw Error("tensor: used before it was given a value");
  return *storage_;
}

const std::byte* Tensor::raw() const {
  storage().wait_pending_copies(detail::Storage::Use::kRead);
  return storage_->data() + offset_;
}

std::byte* Tensor::mutable_raw() {
  storage().wait_pending_copies(detail::Storage::Use::kWrite);
  storage_->bump_version();
  return storage_->data() + offset_;
}

void* Tensor::typed_data(DType requested, detail::Storage::Use use) const {
  if (requested != dtype_ && defined()) {
    throw DTypeError(fmt::format("tensor: elements asked for as {}, but they are {}", name(requested), name(dtype_)));
  }
  storage().wait_pending_copies(use);
  return storage_->data() + offset_;
}

Tensor Tensor::reshape(const Shape& shape) const {
  if (shape.numel() != numel()) {
    throw ShapeError(fmt::format("reshape: {} has {} elements, {} has {}", to_string(shape_), numel(), to_string(shape),
                                 shape.numel()));
  }
  Tensor view = *this;
  view.shape_ = shape;
  return view;
}

Tensor Tensor::reshape(std::initializer_list<std::int64_t> sizes) const {
  return reshape(Shape::inferred("reshape", sizes, shape_));
}

Tensor Tensor::slice(std::int64_t begin, std::int64_t end) const {
  if (rank() == 0 || begin < 0 || end < begin || end > shape_[0]) {
    throw ShapeError(fmt::format("slice: rows [{}, {}) of {}", begin, end, to_string(shape_)));
  }
  Tensor view = *this;
  view.shape_ = shape_.with(0, end - begin);
  view.offset_ += static_cast<std::size_t>(begin * shape_.product(1, rank())) * size_of(dtype_);
  return view;
}

Tensor Tensor::clone() const {
  Tensor copy = empty(shape_, dtype_, device());
  copy.copy_from(*this);
  return copy;
}

Tensor Tensor::to(Device device) const {
  const Device here = this->device();
  if (here == device) return *this;
  if (!here.is_cpu() && !device.is_cpu()) return to(Device::cpu()).to(device);
  backend_of(device).devices.require("to", device.index);
  if (is_pinned()) return to_async(device);  // the driver would not wait for such a copy either
  Tensor result = empty(shape_, dtype_, device);
  if (device.is_cpu()) backend_of(here).copies.to_host(here.index, result.mutable_raw(), raw(), bytes());
  else backend_of(device).copies.from_host(device.index, result.mutable_raw(), raw(), bytes());
  return result;
}

Tensor Tensor::to(DType dtype) const {
  if (dtype == dtype_) return *this;
  Tensor result = empty(shape_, dtype, device());
  backend_of(device()).fills.convert(device().index, dtype, result.mutable_raw(), dtype_, raw(), numel());
  return result;
}

Tensor Tensor::pinned() const {
  if (device().is_cpu() && (is_pinned() || Device::cuda_count() == 0)) return *this;
  Tensor copy = empty_pinned(shape_, dtype_);
  copy.copy_from_async(*this);
  return copy;
}

Tensor Tensor::to_async(Device device) const {
  const Device here = this->device();
  if (here == device) return *this;
  if (!here.is_cpu() && !device.is_cpu()) return to(device);
  backend_of(device).devices.require("to_async", device.index);
  Tensor result = device.is_cpu() ? empty_pinned(shape_, dtype_) : empty(shape_, dtype_, device);
  result.copy_from_async(*this);
  return result;
}

void Tensor::copy_from_async(const Tensor& source) {
  if (!source.defined() || !defined() || source.shape() != shape_ || source.dtype() != dtype_) {
    throw ShapeError(fmt::format("copy_from_async: source is {}, destination {}", describe(source), describe(*this)));
  }
  if (source.device() == device()) return copy_from(source);
  if (source.device().is_cpu() == device().is_cpu() || (device().is_cpu() && !is_pinned())) {
    return copy_from(source.to(device()));
  }
  if (source.device().is_cpu() && !source.is_pinned() && CapturedStep::is_capturing()) {
    throw DeviceError(
        fmt::format("{}: {} is in ordinary memory, which a captured step does not copy from beside its "
                    "computing: it would not see what is there at a replay; give it in page-locked memory, "
                    "by pinned()",
                    OpScope::current() ? OpScope::current() : "copy_from_async", describe(source)));
  }
  const Tensor from = source.device().is_cpu() ? source.pinned() : source;
  detail::Storage::copy_async(from.storage_, from.offset_, storage_, offset_, bytes());
}

void Tensor::copy_from(const Tensor& source) {
  require_same("copy_from", source, *this);
  const std::byte* from = source.raw();
  std::byte* to = mutable_raw();
  if (from == to) return;
  if (overlap(from, to, bytes())) return copy_from(source.clone());
  backend_of(device()).copies.within(device().index, to, from, bytes());
}

void Tensor::accumulate(const Tensor& source) {
  require_same("accumulate", source, *this);
  if (!is_floating(dtype_)) detail::throw_not_computable("accumulate", dtype_);
  if (source.raw() != raw() && overlap(source.raw(), raw(), bytes())) return accumulate(source.clone());
  backend_of(device()).fills.accumulate(device().index, dtype_, mutable_raw(), source.raw(), numel());
}

void Tensor::fill(double value) {
  backend_of(device()).fills.fill(device().index, dtype_, mutable_raw(), value, numel());
}

double Tensor::item() const {
  if (numel() != 1) throw ShapeError(fmt::format("item: {} has {} elements, expected 1", to_string(shape_), numel()));
  const OpScope scope(OpScope::current() ? OpScope::current() : "item");
  double value = 0;
  const Tensor host = to(Device::cpu());
  dispatch_any(dtype_, [&]<class T>() { value = convert_element<double>(*host.data<T>()); });
  return value;
}

std::string describe(const Tensor& tensor) {
  if (!tensor.defined()) return "an undefined tensor";
  return fmt::format("{} {} on {}", name(tensor.dtype()), to_string(tensor.shape()), to_string(tensor.device()));
}

}  // namespace tapecache
