#include "tapecache/gradcache/encoded_parts.h"

#include <algorithm>

#include <fmt/format.h>

#include "tapecache/core/error.h"
#include "tapecache/ops/layout.h"

namespace tapecache::gradcache::detail {

namespace {

std::string listed(std::span<const AuxiliaryLoss> losses) {
  if (losses.empty()) return "no auxiliary loss";
  std::string text = "auxiliary losses";
  for (const AuxiliaryLoss& loss : losses) text += fmt::format(" '{}' of weight {}", loss.name, loss.weight);
  return text;
}

Variable join_values(const std::vector<Variable>& parts) {
  if (is_floating(parts.front().dtype())) return ops::concat(parts);
  std::int64_t rows = 0;
  for (const Variable& part : parts) rows += part.size(0);
  const Variable& first = parts.front();
  Tensor all = Tensor::empty(first.shape().with(0, rows), first.dtype(), first.device());
  rows = 0;
  for (const Variable& part : parts) {
    all.slice(rows, rows + part.size(0)).copy_from(part.value());
    rows += part.size(0);
  }
  return all;
}

void add(std::vector<Parameter>& into, const Variable& value) {
  for (Parameter& parameter : parameter_itself(value)) into.push_back(std::move(parameter));
}

}  // namespace

void check_auxiliary(const std::string& tower, const std::string& part, std::span<const AuxiliaryLoss> losses,
                     std::span<const AuxiliaryLoss> first) {
  const auto same = [](const AuxiliaryLoss& a, const AuxiliaryLoss& b) { return a.name == b.name && a.weight == b.weight; };
  if (std::equal(losses.begin(), losses.end(), first.begin(), first.end(), same)) return;
  throw ShapeError(fmt::format("tower '{}': the encoder gave {} for {}, but {} at first", tower, listed(losses), part,
                               listed(first)));
}

Encoded join_parts(const std::string& tower, std::vector<Encoded> parts) {
  if (parts.size() == 1) return std::move(parts.front());
  Encoded joined = parts.front();
  for (std::size_t p = 1; p < parts.size(); ++p) {
    if (parts[p].outputs.size() != joined.outputs.size()) {
      throw ShapeError(fmt::format("tower '{}': the encoder gave {} outputs for part {}, but {} for the first", tower,
                                   parts[p].outputs.size(), p, joined.outputs.size()));
    }
    check_auxiliary(tower, fmt::format("part {}", p), parts[p].auxiliary, parts.front().auxiliary);
  }
  const auto join = [&](auto&& value_of) {
    std::vector<Variable> values;
    for (const Encoded& part : parts) values.push_back(value_of(part));
    return join_values(values);
  };
  for (std::size_t i = 0; i < joined.outputs.size(); ++i) {
    joined.outputs[i].value = join([&](const Encoded& part) { return part.outputs[i].value; });
  }
  for (std::size_t i = 0; i < joined.auxiliary.size(); ++i) {
    joined.auxiliary[i].values = join([&](const Encoded& part) { return part.auxiliary[i].values; });
  }
  return joined;
}

std::vector<Parameter> parameter_itself(const Variable& value) {
  const Parameter& parameter = value.parameter();
  if (!parameter.defined() || !parameter.requires_gradient()) return {};
  return {parameter};
}

std::vector<Parameter> parameters_themselves(const Encoded& encoded) {
  std::vector<Parameter> found;
  for (const Output& output : encoded.outputs) add(found, output.value);
  for (const AuxiliaryLoss& loss : encoded.auxiliary) add(found, loss.values);
  return found;
}

}  // namespace tapecache::gradcache::detail
