#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tapecache/core/tensor.h"

#pragma GCC visibility push(hidden)

namespace tapecache::models::detail {

/// The angles of rotary position embedding, made for as many positions as have been asked for. Copies share them.
class RopeTables {
 public:
  /// base^(-2i / width) for each pair of elements, as models of PyTorch have them, rounded to f32.
  static std::vector<double> frequencies(double base, std::int64_t width);

  /// `name` tells them from others, for settings that are kept beside weights.
  RopeTables(std::vector<double> frequencies, std::string name);

  /// As `ops::rope` takes it, for at least so many positions.
  Tensor table(std::int64_t positions, DType dtype, Device device) const;
  const std::string& name() const { return shared_->name; }

 private:
  struct Shared {
    std::vector<double> frequencies;
    std::string name;
    std::mutex mutex;
    std::map<std::pair<int, DType>, Tensor> tables;  // by device
  };
  std::shared_ptr<Shared> shared_;
};

}  // namespace tapecache::models::detail

#pragma GCC visibility pop
