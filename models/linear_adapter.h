#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tapecache/models/layers.h"

#pragma GCC visibility push(hidden)

namespace tapecache::models {

namespace detail {

/// What low-rank adaptation (Hu et al. 2021) adds to a linear layer's W x: scale · B A drop(x). The layer and its
/// copies share it.
struct LinearAdapter {
  std::string layer;         ///< the layer's name
  Parameter weight;          ///< the layer's own
  bool adaptable = true;     ///< whether it is of the network that adapters are for
  Parameter a = {}, b = {};  ///< [rank, in] and [out, rank]; undefined where nothing is added
  double alpha = 0, scale = 0, dropout = 0;
  std::shared_ptr<const bool> training = {};  ///< the builder's flag, without which nothing is dropped
  Tensor base = {};                           ///< the layer's own values, while the weight holds them and the adapter

  bool active() const { return a.defined() && !base.defined(); }
  bool drops() const { return active() && dropout > 0 && *training; }
};

/// What a product is made of: that of the layers' input with these weights, side by side; and the input itself.
struct AdapterInput {
  std::function<Variable(std::span<const Variable> weights)> product;
  std::function<Variable()> value;
};

/// The outputs of layers, side by side in y, with what their adapters add. Those without are null.
Variable add_adapters(const Variable& y, std::span<const LinearAdapter* const> adapters,
                      std::span<const std::int64_t> widths, const AdapterInput& input);

}  // namespace detail

using detail::LinearAdapter;

}  // namespace tapecache::models

#pragma GCC visibility pop
