#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tapecache/autograd/variable.h"

namespace tapecache::gradcache {

/// What a loss is given: each output of each tower over the whole batch, towers and outputs in their order. Converts
/// to a span of variables.
class Representations {
 public:
  void add(std::string name, Variable value) {
    names_.push_back(std::move(name));
    values_.push_back(std::move(value));
  }

  std::size_t size() const { return values_.size(); }
  /// Throws ValueError that lists the names there are.
  const Variable& operator[](std::size_t index) const;
  /// By name: the tower's, "image", or the tower's and the output's, "image.tokens". Throws ValueError that lists the
  /// names there are.
  const Variable& at(std::string_view name) const;
  const std::vector<std::string>& names() const { return names_; }

  operator std::span<const Variable>() const { return values_; }
  auto begin() const { return values_.begin(); }
  auto end() const { return values_.end(); }

 private:
  std::vector<std::string> names_;
  std::vector<Variable> values_;
};

}  // namespace tapecache::gradcache
