#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tapecache/models/linear_adapter.h"
#include "tapecache/models/lora.h"

#pragma GCC visibility push(hidden)

namespace tapecache::models {

struct Lora::Parts {
  LoraOptions options;
  std::string prefix;  // of the model's names, which files leave out
  std::vector<std::shared_ptr<LinearAdapter>> layers;

  std::string name(const LinearAdapter& layer) const { return layer.layer.substr(prefix.size()); }
};

namespace detail {

/// A layer that is to be adapted, and how.
struct AdapterPlan {
  std::shared_ptr<LinearAdapter> layer;
  std::int64_t rank = 0;
  double alpha = 0;
  Tensor a = {}, b = {};  // where they are not to be drawn
};

std::string prefix_of(const Builder& builder);
/// Throws ValueError where there are none.
std::vector<std::shared_ptr<LinearAdapter>> adaptable_layers(const Model& model);
/// Throws ValueError where it is adapted.
void require_free(const LinearAdapter& layer);

/// Whether the one is the last parts of the other, or all of it.
bool ends_name(std::string_view name, std::string_view last);
/// Whether it is one, and no regular expression.
bool is_name(std::string_view text);

/// Makes A and B of layers that are free. Throws OutOfMemory, and then nothing is changed.
std::vector<std::shared_ptr<LinearAdapter>> adapt(const Builder& builder, const LoraOptions& options,
                                                  const std::vector<AdapterPlan>& plans);

}  // namespace detail

}  // namespace tapecache::models

#pragma GCC visibility pop
