#include "tapecache/gradcache/encoded_parts.h"

#include <algorithm>

#include <fmt/format.h>

#include "tapecache/core/error.h"

namespace tapecache::gradcache::detail {

namespace {

std::string listed(std::span<const AuxiliaryLoss> losses) {
  if (losses.empty()) return "no auxiliary loss";
  std::string text = "auxiliary losses";
  for (const AuxiliaryLoss& loss : losses) text += fmt::format(" '{}' of weight {}", loss.name, loss.weight);
  return text;
}

void add(std::vector<Parameter>& into, const Variable& value) {
  for (Parameter& parameter : parameter_itself(value)) into.push_back(std::move(parameter));
}

}  // namespace

void check_auxiliary(const std::string& tower, const std::string& part, std::span<const AuxiliaryLoss> losses,
                     std::span<const AuxiliaryLoss> first) {
  const auto same = [](const AuxiliaryLoss& a, const AuxiliaryLoss& b) {
    return a.name == b.name && a.weight == b.weight;
  };
  if (std::equal(losses.begin(), losses.end(), first.begin(), first.end(), same)) return;
  throw ShapeError(fmt::format("tower '{}': the encoder gave {} for {}, but {} at first", tower, listed(losses), part,
                               listed(first)));
}

std::vector<Parameter> parameter_itself(const Variable& value) {
  const Parameter& parameter = value.parameter();
  if (!parameter.defined() || !parameter.requires_gradient()) return {};
  return {parameter};
}

std::vector<Parameter> parameters_themselves(const Encoded& encoded) {
  std::vector<Parameter> found;
  for (const Encoded::Output& output : encoded.outputs) add(found, output.value);
  for (const AuxiliaryLoss& loss : encoded.auxiliary) add(found, loss.values);
  return found;
}

}  // namespace tapecache::gradcache::detail
