#include "tapecache/models/activation_names.h"

#include <algorithm>
#include <array>
#include <utility>

#include "tapecache/core/error.h"

namespace tapecache::models::detail {

std::string_view name_of(ops::Activation activation) {
  switch (activation) {
    case ops::Activation::kQuickGelu:
      return "quick_gelu";
    case ops::Activation::kGelu:
      return "gelu";
    case ops::Activation::kGeluTanh:
      return "gelu_pytorch_tanh";
    case ops::Activation::kSilu:
      return "silu";
    case ops::Activation::kRelu:
      return "relu";
  }
  throw ValueError("activation: unknown");
}

std::optional<ops::Activation> activation_named(std::string_view name) {
  constexpr std::array<std::pair<std::string_view, ops::Activation>, 8> kNames{
      {{"gelu", ops::Activation::kGelu},
       {"gelu_new", ops::Activation::kGeluTanh},
       {"gelu_pytorch_tanh", ops::Activation::kGeluTanh},
       {"gelu_fast", ops::Activation::kGeluTanh},
       {"quick_gelu", ops::Activation::kQuickGelu},
       {"relu", ops::Activation::kRelu},
       {"silu", ops::Activation::kSilu},
       {"swish", ops::Activation::kSilu}}};
  const auto* const found = std::find_if(kNames.begin(), kNames.end(), [&](const auto& n) { return n.first == name; });
  return found == kNames.end() ? std::nullopt : std::optional(found->second);
}

}  // namespace tapecache::models::detail
