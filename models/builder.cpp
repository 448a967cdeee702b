#include "tapecache/models/builder.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <utility>

#include <fmt/format.h>

#include "tapecache/core/random.h"

namespace tapecache::models {

namespace {

/// FNV-1a: the same on every machine, unlike std::hash.
std::uint64_t hash_of(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (unsigned char c : text) hash = (hash ^ c) * 0x100000001b3;
  return hash;
}

void require_drawable(const std::string& name, const Init& init) {
  const auto spread = [](double value) { return std::isfinite(value) && value >= 0; };
  if (std::isfinite(init.mean) && spread(init.standard_deviation) && spread(init.half_range)) return;
  throw ValueError(
      fmt::format("builder: '{}' has first values of mean {}, standard_deviation {}, half_range {}; each must be "
                  "finite, and the latter two at least 0",
                  name, init.mean, init.standard_deviation, init.half_range));
}

/// The largest value of a type below another, to which rounding may lead.
template <class T>
double largest_below(double limit) {
  const T nearest = static_cast<T>(limit);
  return static_cast<double>(nearest) < limit ? nearest : std::nextafter(nearest, -std::numeric_limits<T>::infinity());
}

Tensor drawn_values(const Shape& shape, const Init& init, std::uint64_t seed, DType dtype) {
  const double largest =
      dtype == DType::kFloat32 ? largest_below<float>(init.below) : largest_below<double>(init.below);
  Tensor values = Tensor::empty(shape, DType::kFloat64);
  double* p = values.mutable_data<double>();
  for (std::int64_t i = 0; i < values.numel(); ++i) {
    const auto w = RandomKey{seed}.draw(0, static_cast<std::uint32_t>(i));
    const std::uint64_t bits = (std::uint64_t{w[0]} << 32 | w[1]) >> 11;
    // Box–Muller, with 53 bits for the radius.
    const double u = (static_cast<double>(bits) + 0.5) * 0x1p-53;
    const double angle = 2 * std::numbers::pi * (static_cast<double>(w[2]) * 0x1p-32);
    p[i] = init.mean + init.standard_deviation * std::sqrt(-2 * std::log(u)) * std::cos(angle) +
           init.half_range * (static_cast<double>(bits) * 0x1p-52 - 1);
    if (std::isfinite(init.below)) p[i] = std::min(p[i], largest);
  }
  return values.to(dtype);
}

}  // namespace

Builder::Builder(std::uint64_t seed, DType dtype) : shared_(std::make_shared<Shared>()) {
  if (dtype != DType::kFloat32 && dtype != DType::kFloat64) {
    throw DTypeError(fmt::format("builder: dtype is {}, expected float32 or float64", name(dtype)));
  }
  shared_->seed = seed;
  shared_->dtype = dtype;
}

std::string Builder::full_name(std::string_view name) const {
  return prefix_.empty() ? std::string(name) : prefix_ + "." + std::string(name);
}

Builder Builder::child(std::string_view name) const {
  Builder part = *this;
  part.prefix_ = full_name(name);
  return part;
}

void Builder::require_free(const std::string& full) const {
  const std::vector<Parameter>& parameters = shared_->parameters;
  const std::vector<Buffer>& buffers = shared_->buffers;
  if (std::any_of(parameters.begin(), parameters.end(), [&](const Parameter& p) { return p.name() == full; }) ||
      std::any_of(buffers.begin(), buffers.end(), [&](const Buffer& b) { return b.name == full; })) {
    throw ValueError(fmt::format("builder: two parameters or buffers are named '{}'", full));
  }
}

Tensor Builder::buffer(std::string_view name, const Tensor& value) const {
  const std::string full = full_name(name);
  require_free(full);
  if (!value.defined() || !is_floating(value.dtype())) {
    throw DTypeError(fmt::format("builder: buffer '{}' is {}, expected a floating type", full, describe(value)));
  }
  Tensor(value).move_to(shared_->device);
  shared_->buffers.push_back({full, value});
  return value;
}

Parameter Builder::parameter(std::string_view name, const Shape& shape, const Init& init) const {
  const std::string full = full_name(name);
  require_free(full);
  require_drawable(full, init);
  shared_->parameters.emplace_back(full, first_values(full, shape, init));
  return shared_->parameters.back();
}

Tensor Builder::first_values(const std::string& full, const Shape& shape, const Init& init) const {
  if (shared_->first_values) {
    if (Tensor given = shared_->first_values(full, shape); given.defined()) {
      if (given.shape() != shape) {
        throw ShapeError(fmt::format("builder: the first values of '{}' have shape {}, expected {}", full,
                                     to_string(given.shape()), to_string(shape)));
      }
      if (given.dtype() != shared_->dtype) {
        throw DTypeError(fmt::format("builder: the first values of '{}' are {}, expected {}", full, name(given.dtype()),
                                     name(shared_->dtype)));
      }
      if (given.device() != shared_->device) {
        throw DeviceError(fmt::format("builder: the first values of '{}' are on {}, expected {}", full,
                                      to_string(given.device()), to_string(shared_->device)));
      }
      return given;
    }
  }
  const Tensor values = init.standard_deviation == 0 && init.half_range == 0
                            ? Tensor::full(shape, init.mean, shared_->dtype)
                            : drawn_values(shape, init, shared_->seed ^ hash_of(full), shared_->dtype);
  return values.to(shared_->device);
}

void Builder::to(Device device) const {
  std::vector<std::pair<Tensor, Device>> before;
  const auto move = [&](Tensor tensor) {
    if (!tensor.defined()) return;
    before.emplace_back(tensor, tensor.device());
    tensor.move_to(device);
  };
  try {
    for (const Parameter& p : shared_->parameters) move(p.value()), move(p.gradient());
    for (const Buffer& b : shared_->buffers) move(b.value);
  } catch (...) {
    // The last first: of tensors that share storage the first one knows where it was.
    for (auto entry = before.rbegin(); entry != before.rend(); ++entry) entry->first.move_to(entry->second);
    throw;
  }
  shared_->device = device;
}

}  // namespace tapecache::models
