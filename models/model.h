#pragma once

#include <cstdint>
#include <vector>

#include "tapecache/models/builder.h"

namespace tapecache::models {

/// What every model is reached by: the builder that made it, with all parameters and buffers under it.
class Model {
 public:
  /// `load_weights(path, model.builder())` reads its weights.
  const Builder& builder() const { return builder_; }
  /// All of its builder's, with those of other parts that share it, which the rest reaches too.
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
