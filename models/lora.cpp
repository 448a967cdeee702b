#include "tapecache/models/lora_parts.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <functional>
#include <regex>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "tapecache/autograd/modes.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/error.h"
#include "tapecache/models/argument_checks.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/linear.h"

namespace tapecache::models {

namespace {

std::function<bool(const std::string&)> matcher(const std::string& target) {
  if (target == "all-linear") return [](const std::string&) { return true; };
  if (detail::is_name(target)) return [target](const std::string& name) { return detail::ends_name(name, target); };
  try {
    return [expression = std::regex(target)](const std::string& name) { return std::regex_match(name, expression); };
  } catch (const std::regex_error& e) {
    throw ValueError(fmt::format("lora: target '{}' is no regular expression: {}", target, e.what()));
  }
}

void check_options(const LoraOptions& options) {
  detail::require_sizes("lora", {{"rank", options.rank}});
  detail::require_probability("lora", "dropout", options.dropout);
  // No layer is as wide: A and B would be of more numbers than what they add to.
  constexpr std::int64_t kMostRank = 65536;
  if (options.rank > kMostRank) {
    throw ValueError(fmt::format("lora: rank is {}, expected at most {}", options.rank, kMostRank));
  }
  if (!std::isfinite(static_cast<float>(options.alpha))) {
    throw ValueError(fmt::format("lora: alpha is {}, expected a number that is finite in float32", options.alpha));
  }
}

double scale_of(double alpha, std::int64_t rank, bool stabilized) {
  const auto r = static_cast<double>(rank);
  return alpha / (stabilized ? std::sqrt(r) : r);
}

}  // namespace

namespace detail {

std::string prefix_of(const Builder& builder) { return builder.prefix().empty() ? "" : builder.prefix() + "."; }

std::vector<std::shared_ptr<LinearAdapter>> adaptable_layers(const Model& model) {
  const std::string prefix = prefix_of(model.builder());
  std::vector<std::shared_ptr<LinearAdapter>> layers;
  std::ranges::copy_if(model.builder().linear_layers(), std::back_inserter(layers),
                       [&](const auto& layer) { return layer->adaptable && layer->layer.starts_with(prefix); });
  if (layers.empty()) throw ValueError("lora: the model has no linear layer that could be adapted");
  return layers;
}

bool ends_name(std::string_view name, std::string_view last) {
  return name == last ||
         (name.size() > last.size() && name.ends_with(last) && name[name.size() - last.size() - 1] == '.');
}

bool is_name(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.';
  });
}
void require_free(const LinearAdapter& layer) {
  if (layer.a.defined()) throw ValueError(fmt::format("lora: layer '{}' is adapted already", layer.layer));
}
std::vector<std::shared_ptr<LinearAdapter>> adapt(const Builder& builder, const LoraOptions& options,
                                                  const std::vector<AdapterPlan>& plans) {
  struct Made {
    Parameter a, b;
  };
  const std::size_t before = builder.parameters().size();
  std::vector<Made> made;
  std::vector<std::shared_ptr<LinearAdapter>> layers;
  const auto make = [&](const std::string& name, const Shape& shape, const Init& init, const Tensor& value) {
    builder.set_first_values([&](const std::string&, const Shape&) { return value; });
    return builder.parameter(name, shape, init);
  };
  try {
    for (const AdapterPlan& plan : plans) {
      const std::string name = plan.layer->layer.substr(prefix_of(builder).size());
      const std::int64_t in = plan.layer->weight.value().size(1), out = plan.layer->weight.value().size(0);
      const double range = 1 / std::sqrt(static_cast<double>(in));  // kaiming_uniform_(a=√5)
      made.push_back({make(name + ".lora_A.weight", {plan.rank, in}, Init::uniform(-range, range), plan.a),
                      make(name + ".lora_B.weight", {out, plan.rank}, Init::constant(0), plan.b)});
      const double scale = scale_of(plan.alpha, plan.rank, options.rank_stabilized);
      made.back().b.set("lora_scale", fmt::to_string(scale));
      layers.push_back(plan.layer);
    }
  } catch (...) {
    builder.set_first_values({});
    builder.forget_parameters_from(before);
    throw;
  }
  builder.set_first_values({});
  for (std::size_t i = 0; i < before; ++i) Parameter(builder.parameters()[i]).set_requires_gradient(false);
  for (std::size_t i = 0; i < plans.size(); ++i) {
    LinearAdapter& layer = *layers[i];
    layer.a = made[i].a;
    layer.b = made[i].b;
    layer.alpha = plans[i].alpha;
    layer.scale = scale_of(layer.alpha, plans[i].rank, options.rank_stabilized);
    layer.dropout = options.dropout;
    layer.training = builder.training_flag();
  }
  return layers;
}

}  // namespace detail

std::vector<std::string> Lora::layers() const {
  std::vector<std::string> names;
  for (const auto& layer : parts_->layers) names.push_back(layer->layer);
  return names;
}

std::vector<Parameter> Lora::parameters() const {
  std::vector<Parameter> all;
  for (const auto& layer : parts_->layers) all.insert(all.end(), {layer->a, layer->b});
  return all;
}

bool Lora::merged() const { return parts_->layers.front()->base.defined(); }

void Lora::merge() const {
  if (merged()) return;
  std::vector<Tensor> base;
  for (const auto& layer : parts_->layers) base.push_back(layer->weight.value().clone());
  std::size_t done = 0;
  try {
    const NoRecording no_tape;
    const Autocast full(DType::kFloat32);
    for (const auto& layer : parts_->layers) {
      const Variable added = ops::scale(ops::matmul(layer->b, layer->a), layer->scale);
      layer->weight.assign(ops::add(base[done], added).value());
      ++done;
    }
  } catch (...) {
    for (std::size_t i = 0; i < done; ++i) parts_->layers[i]->weight.assign(base[i]);
    throw;
  }
  for (std::size_t i = 0; i < base.size(); ++i) parts_->layers[i]->base = base[i];
}

void Lora::unmerge() const {
  if (!merged()) return;
  std::vector<Tensor> base;  // where the model is now
  for (const auto& layer : parts_->layers) base.push_back(layer->base.to(layer->weight.value().device()));
  for (std::size_t i = 0; i < base.size(); ++i) {
    parts_->layers[i]->weight.assign(base[i]);
    parts_->layers[i]->base = Tensor();
  }
}

Lora add_lora(const Model& model, const LoraOptions& options) {
  check_options(options);
  const Builder& builder = model.builder();
  const std::vector<std::shared_ptr<LinearAdapter>> layers = detail::adaptable_layers(model);
  const std::string prefix = detail::prefix_of(builder);
  std::set<std::size_t> chosen;
  for (const std::string& target : options.targets) {
    const auto matches = matcher(target);
    bool matched = false;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      if (!matches(layers[i]->layer.substr(prefix.size()))) continue;
      chosen.insert(i);
      matched = true;
    }
    if (!matched) {
      throw ValueError(fmt::format("lora: target '{}' is no linear layer of the model; they are called like '{}'",
                                   target, layers.front()->layer.substr(prefix.size())));
    }
  }
  if (chosen.empty()) throw ValueError("lora: targets is empty, expected names of layers or \"all-linear\"");
  std::vector<detail::AdapterPlan> plans;
  for (const std::size_t i : chosen) {
    detail::require_free(*layers[i]);
    plans.push_back({layers[i], options.rank, options.alpha});
  }
  const auto parts = std::make_shared<Lora::Parts>(Lora::Parts{options, prefix, {}});
  parts->layers = detail::adapt(builder, options, plans);
  return Lora(parts);
}

}  // namespace tapecache::models
