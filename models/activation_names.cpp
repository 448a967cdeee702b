#include "tapecache/models/activation_names.h"

#include <algorithm>
#include <array>
#include <utility>

#include "tapecache/core/error.h"

namespace tapecache::models::detail {

namespace {

using ops::Activation;

/// The first name of each is the one that is written.
constexpr std::array<std::pair<std::string_view, Activation>, 8> kNames{{{"gelu", Activation::kGelu},
                                                                         {"gelu_pytorch_tanh", Activation::kGeluTanh},
                                                                         {"gelu_new", Activation::kGeluTanh},
                                                                         {"gelu_fast", Activation::kGeluTanh},
                                                                         {"quick_gelu", Activation::kQuickGelu},
                                                                         {"relu", Activation::kRelu},
                                                                         {"silu", Activation::kSilu},
                                                                         {"swish", Activation::kSilu}}};

}  // namespace

std::string_view name_of(Activation activation) {
  const auto* const found = std::ranges::find(kNames, activation, [](const auto& n) { return n.second; });
  if (found == kNames.end()) throw ValueError("activation: unknown");
  return found->first;
}

std::optional<Activation> activation_named(std::string_view name) {
  const auto* const found = std::ranges::find(kNames, name, [](const auto& n) { return n.first; });
  return found == kNames.end() ? std::nullopt : std::optional(found->second);
}

}  // namespace tapecache::models::detail
