#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tapecache/autograd/buffer.h"
#include "tapecache/autograd/parameter.h"
#include "tapecache/core/scoped_value.h"

namespace tapecache::models {

struct LinearAdapter;

/// How a parameter's first values are drawn.
struct Init {
  double mean = 0;
  double standard_deviation = 0;  ///< of a normal distribution about the mean
  double half_range = 0;          ///< of a uniform distribution about the mean; both 0: all values are the mean
  double below = std::numeric_limits<double>::infinity();  ///< what drawn values stay below, in the builder's type too

  static constexpr Init normal(double standard_deviation) { return {.standard_deviation = standard_deviation}; }
  /// Uniform in [low, high).
  static constexpr Init uniform(double low, double high) { return {(low + high) / 2, 0, (high - low) / 2, high}; }
  static constexpr Init constant(double value) { return {.mean = value}; }
};

/// Makes a model's parameters under dotted names and keeps them in one list. Copies and children share the list and
/// the training flag; they differ in the name they stand under.
class Builder {
 public:
  /// The values of a parameter of this full name, of the builder's type and on its device; undefined where they are to
  /// be drawn.
  using FirstValues = std::function<Tensor(const std::string& name, const Shape& shape)>;

  /// Throws DTypeError for a type other than f32 and f64.
  explicit Builder(std::uint64_t seed, DType dtype = DType::kFloat32);

  /// The builder of a part: its names begin with this one's, a dot, and `name`.
  Builder child(std::string_view name) const;
  /// A new parameter. Its values depend on the seed, the full name and the element alone, not on the order in which
  /// parameters are made. Throws ValueError where the full name was taken, and for numbers of `init` that are not
  /// finite or a spread below 0.
  Parameter parameter(std::string_view name, const Shape& shape, const Init& init) const;
  /// Forgets those but the first few, of a layer that came to nothing.
  void forget_parameters_from(std::size_t first) const {
    shared_->parameters.erase(shared_->parameters.begin() + static_cast<std::ptrdiff_t>(first),
                              shared_->parameters.end());
  }
  /// From now on parameters, of all copies and children, take the values that this gives instead of drawing them: what
  /// a file holds is there once then. An empty function: all are drawn again. What is given in another shape, type or
  /// place is refused by ShapeError, DTypeError or DeviceError.
  void set_first_values(FirstValues values) const { shared_->first_values = std::move(values); }
  /// A new buffer, which holds the given floating tensor itself, moved to the builder's device. Throws, before anything
  /// is changed, ValueError where the full name was taken, DTypeError for another type or an undefined tensor,
  /// OutOfMemory.
  Tensor buffer(std::string_view name, const Tensor& value) const;

  /// Moves all parameters, with their gradients, and buffers to a device, where those to come are made too. Layers and
  /// optimisers that hold them find them there. Throws DeviceError or OutOfMemory, and then leaves all where they were.
  void to(Device device) const;
  Device device() const { return shared_->device; }

  /// All parameters made so far, in that order.
  const std::vector<Parameter>& parameters() const { return shared_->parameters; }
  /// All buffers made so far, in that order.
  const std::vector<Buffer>& buffers() const { return shared_->buffers; }
  /// What stands for each linear layer made so far, in that order, and `add_lora` fills.
  const std::vector<std::shared_ptr<LinearAdapter>>& linear_layers() const { return shared_->linear_layers; }
  void add_linear_layer(std::shared_ptr<LinearAdapter> layer) const {
    shared_->linear_layers.push_back(std::move(layer));
  }
  /// The name that this builder makes things under; empty at the root.
  const std::string& prefix() const { return prefix_; }
  DType dtype() const { return shared_->dtype; }

  /// Whether layers such as dropout act as in training; true at first.
  bool training() const { return shared_->training; }
  void set_training(bool on) const { shared_->training = on; }
  /// The same until the end of what this returns.
  ScopedValue<bool> training_as(bool on) const { return ScopedValue<bool>(shared_->training, on); }

 private:
  struct Shared {
    std::uint64_t seed;
    DType dtype;
    Device device = Device::cpu();
    bool training = true;
    std::vector<Parameter> parameters;
    std::vector<Buffer> buffers;
    std::vector<std::shared_ptr<LinearAdapter>> linear_layers;
    FirstValues first_values;
  };
  Tensor first_values(const std::string& full, const Shape& shape, const Init& init) const;
  std::string full_name(std::string_view name) const;
  void require_free(const std::string& full) const;

  std::shared_ptr<Shared> shared_;
  std::string prefix_;
};

}  // namespace tapecache::models
