#include "tapecache/train/loss_scaler.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <sstream>
#include <vector>

#include <fmt/format.h>

#include "tapecache/ops/update.h"
#include "tapecache/train/distinct_gradients.h"

namespace tapecache::train {

namespace {

void require(bool fits, const char* option, double found, const char* expected) {
  if (!fits) throw ValueError(fmt::format("loss scaler: {} is {}, expected {}", option, found, expected));
}

using Notes = std::map<std::string, std::string>;

const std::string& note(const Notes& notes, const std::string& name) {
  const auto found = notes.find(name);
  if (found == notes.end()) throw ValueError(fmt::format("loss scaler: the notes have no '{}'", name));
  return found->second;
}

double number(const Notes& notes, const std::string& name) {
  const std::string& found = note(notes, name);
  std::istringstream text(found);
  text.imbue(std::locale::classic());
  double value = 0;
  if (!(text >> value) || !text.eof() || !std::isfinite(value) || value < 0) {
    throw ValueError(fmt::format("loss scaler: '{}' is '{}', expected a number of at least 0", name, found));
  }
  return value;
}

std::int64_t count(const Notes& notes, const std::string& name) {
  const std::string& text = note(notes, name);
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) {
    throw ValueError(fmt::format("loss scaler: '{}' is '{}', expected a whole number of at least 0", name, text));
  }
  return value;
}

}  // namespace

LossScaler::LossScaler(const LossScalerOptions& options) : options_(options), state_{.scale = options.initial_scale} {
  const auto finite = [](double v) { return std::isfinite(v); };
  require(finite(options.min_scale) && options.min_scale > 0, "min_scale", options.min_scale, "above 0");
  require(finite(options.max_scale) && options.max_scale >= options.min_scale, "max_scale", options.max_scale,
          "at least min_scale");
  require(options.initial_scale >= options.min_scale && options.initial_scale <= options.max_scale, "initial_scale",
          options.initial_scale, "min_scale to max_scale");
  require(finite(options.growth_factor) && options.growth_factor > 1, "growth_factor", options.growth_factor,
          "above 1");
  require(options.backoff_factor > 0 && options.backoff_factor < 1, "backoff_factor", options.backoff_factor,
          "between 0 and 1");
  require(options.growth_interval >= 1, "growth_interval", static_cast<double>(options.growth_interval), "at least 1");
}

bool LossScaler::unscale(std::span<const Parameter> parameters) {
  if (unscaled_) throw Error("loss scaler: unscale called twice without an update in between");
  std::vector<Tensor> gradients = detail::distinct_gradients(parameters);
  Tensor non_finite = ops::count_non_finite(gradients);
  unscaled_ = true;
  for (Tensor& gradient : gradients) ops::scale_in_place(gradient, 1 / state_.scale);
  if (state_.scale < 1) non_finite = ops::count_non_finite(gradients);  // they have grown
  const bool finite = non_finite.item() == 0;
  if (!finite) {
    for (Parameter parameter : parameters) parameter.clear_gradient();
  }
  return finite;
}

void LossScaler::update(bool finite) {
  unscaled_ = false;
  ++state_.steps;
  if (!finite) {
    ++state_.skipped;
    state_.finite_in_a_row = 0;
    state_.scale = std::max(options_.min_scale, state_.scale * options_.backoff_factor);
  } else if (++state_.finite_in_a_row >= options_.growth_interval) {
    state_.finite_in_a_row = 0;
    state_.scale = std::min(options_.max_scale, state_.scale * options_.growth_factor);
  }
}

void LossScaler::save(std::map<std::string, std::string>& notes) const {
  notes["loss_scaler.scale"] = fmt::format("{}", state_.scale);
  notes["loss_scaler.finite_in_a_row"] = fmt::format("{}", state_.finite_in_a_row);
  notes["loss_scaler.steps"] = fmt::format("{}", state_.steps);
  notes["loss_scaler.skipped"] = fmt::format("{}", state_.skipped);
}

void LossScaler::load(const std::map<std::string, std::string>& notes) {
  set_state({.scale = number(notes, "loss_scaler.scale"),
             .finite_in_a_row = count(notes, "loss_scaler.finite_in_a_row"),
             .steps = count(notes, "loss_scaler.steps"),
             .skipped = count(notes, "loss_scaler.skipped")});
}

void LossScaler::set_state(const State& state) {
  const bool in_range = state.scale >= options_.min_scale && state.scale <= options_.max_scale;
  require(in_range, "scale", state.scale, "min_scale to max_scale");
  state_ = state;
}

}  // namespace tapecache::train
