#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tapecache/autograd/variable.h"
#include "tapecache/core/forward_context.h"

namespace tapecache::models {

namespace detail {
struct LinearAdapter;
}

/// How a parameter's initial values are drawn.
struct Init {
  double mean = 0;
  double standard_deviation = 0;  ///< of a normal distribution about the mean
  double half_range = 0;          ///< of a uniform distribution about the mean; if both are 0, all values are the mean
  double below = std::numeric_limits<double>::infinity();  ///< exclusive upper bound of drawn values, after rounding to
                                                           ///< the builder's type too

  static constexpr Init normal(double standard_deviation) { return {.standard_deviation = standard_deviation}; }
  /// Uniform in [low, high).
  static constexpr Init uniform(double low, double high) { return {(low + high) / 2, 0, (high - low) / 2, high}; }
  static constexpr Init constant(double value) { return {.mean = value}; }
};

/// Creates a model's parameters under dotted names and keeps them in one list. Copies and children share the list and
/// the training flag; they differ only in their name prefix.
class Builder {
 public:
  /// Returns the initial values of the parameter with this full name, in the builder's dtype and on its device, or an
  /// undefined tensor if they are to be drawn.
  using FirstValues = std::function<Tensor(const std::string& name, const Shape& shape)>;

  /// Throws DTypeError for a type other than f32 and f64.
  explicit Builder(std::uint64_t seed, DType dtype = DType::kFloat32);

  /// A builder for a part of the model: its prefix is this one's, a dot, and `name`.
  Builder child(std::string_view name) const;
  /// Creates a parameter. Its values depend only on the seed, the full name and the element's index, not on the order
  /// in which parameters are created. Throws ValueError if the full name is taken, if a number of `init` is not finite,
  /// or if its spread is below 0.
  Parameter parameter(std::string_view name, const Shape& shape, const Init& init) const;
  /// Removes all parameters from the given index on, after a layer that could not be completed.
  void forget_parameters_from(std::size_t first) const {
    shared_->parameters.erase(shared_->parameters.begin() + static_cast<std::ptrdiff_t>(first),
                              shared_->parameters.end());
  }
  /// Sets where new parameters of this builder, its copies and its children take their values from instead of drawing
  /// them, so that a loaded model is in memory only once. An empty function restores drawing. A tensor of the wrong
  /// shape, type or device makes `parameter` throw ShapeError, DTypeError or DeviceError.
  void set_first_values(FirstValues values) const { shared_->first_values = std::move(values); }
  /// Registers the given floating tensor itself as a buffer, moved to the builder's device. Throws ValueError if the
  /// full name is taken, DTypeError for another type or an undefined tensor, and OutOfMemory, before anything is
  /// changed.
  Tensor buffer(std::string_view name, const Tensor& value) const;

  /// Moves all parameters (with their gradients) and buffers to a device, on which later ones are created too. Layers
  /// and optimisers see them there. Throws DeviceError or OutOfMemory and then leaves everything where it was.
  void to(Device device) const;
  Device device() const { return shared_->device; }

  /// All parameters in order of creation.
  const std::vector<Parameter>& parameters() const { return shared_->parameters; }
  /// All buffers in order of creation.
  const std::vector<Buffer>& buffers() const { return shared_->buffers; }
  /// The adapters of all linear layers in order of creation, which `add_lora` fills.
  const std::vector<std::shared_ptr<detail::LinearAdapter>>& linear_layers() const { return shared_->linear_layers; }
  void add_linear_layer(std::shared_ptr<detail::LinearAdapter> layer) const {
    shared_->linear_layers.push_back(std::move(layer));
  }
  /// The prefix of all names that this builder creates; empty at the root.
  const std::string& prefix() const { return prefix_; }
  DType dtype() const { return shared_->dtype; }

  /// Whether layers such as dropout behave as in training; initially true.
  bool training() const { return *shared_->training; }
  void set_training(bool on) const { *shared_->training = on; }
  /// Sets the flag for as long as the returned object lives.
  ScopedValue<bool> training_as(bool on) const { return ScopedValue<bool>(*shared_->training, on); }
  /// The flag itself, for what the builder holds: if that held the builder, neither would ever be freed.
  std::shared_ptr<const bool> training_flag() const { return shared_->training; }

 private:
  struct Shared {
    std::uint64_t seed;
    DType dtype;
    Device device = Device::cpu();
    std::shared_ptr<bool> training = std::make_shared<bool>(true);
    std::vector<Parameter> parameters;
    std::vector<Buffer> buffers;
    std::vector<std::shared_ptr<detail::LinearAdapter>> linear_layers;
    FirstValues first_values;
  };
  Tensor first_values(const std::string& full, const Shape& shape, const Init& init) const;
  std::string full_name(std::string_view name) const;
  void require_free(const std::string& full) const;

  std::shared_ptr<Shared> shared_;
  std::string prefix_;
};

/// The base of every model: holds the builder that made it, and with it all parameters and buffers.
class Model {
 public:
  /// `load_weights(path, model.builder())` reads its weights.
  const Builder& builder() const { return builder_; }
  /// All parameters of the builder, including those of other parts that share it. `to` and `set_training` concern these
  /// too.
  const std::vector<Parameter>& parameters() const { return builder_.parameters(); }
  /// Moves all parameters and buffers to a device (`Builder::to`), on which inputs must then be.
  void to(Device device) const { builder_.to(device); }
  /// Turns dropout and drop path on or off; on at first.
  void set_training(bool on) const { builder_.set_training(on); }
  bool training() const { return builder_.training(); }

 protected:
  explicit Model(const Builder& builder) : builder_(builder) {}
  ~Model() = default;
  Model(const Model&) = default;
  Model& operator=(const Model&) = default;

 private:
  Builder builder_;
};

}  // namespace tapecache::models
