#include "tapecache/train/loss_scaler.h"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <vector>

#include <fmt/format.h>

#include "tapecache/ops/update.h"

namespace tapecache::train {

namespace {

void require(bool fits, const char* option, double found, const char* expected) {
  if (!fits) throw ValueError(fmt::format("loss scaler: {} is {}, expected {}", option, found, expected));
}

double number(const std::map<std::string, std::string>& notes, const std::string& name) {
  const auto found = notes.find(name);
  if (found == notes.end()) throw ValueError(fmt::format("loss scaler: the notes have no '{}'", name));
  std::istringstream text(found->second);
  text.imbue(std::locale::classic());
  double value = 0;
  if (!(text >> value) || !text.eof() || !std::isfinite(value) || value < 0) {
    throw ValueError(fmt::format("loss scaler: '{}' is '{}', expected a number of at least 0", name, found->second));
  }
  return value;
}

}  // namespace

LossScaler::LossScaler(const LossScalerOptions& options) : options_(options), scale_(options.initial_scale) {
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
  unscaled_ = true;
  std::vector<Tensor> gradients;
  for (const Parameter& p : parameters) {
    if (p.gradient().defined()) gradients.push_back(p.gradient());
  }
  const Tensor non_finite = ops::count_non_finite(gradients);
  for (Tensor& gradient : gradients) ops::scale_in_place(gradient, 1 / scale_);
  return non_finite.item() == 0;
}

void LossScaler::update(bool finite) {
  unscaled_ = false;
  ++steps_;
  if (!finite) {
    ++skipped_;
    finite_in_a_row_ = 0;
    scale_ = std::max(options_.min_scale, scale_ * options_.backoff_factor);
  } else if (++finite_in_a_row_ >= options_.growth_interval) {
    finite_in_a_row_ = 0;
    scale_ = std::min(options_.max_scale, scale_ * options_.growth_factor);
  }
}

void LossScaler::save(std::map<std::string, std::string>& notes) const {
  notes["loss_scaler.scale"] = fmt::format("{}", scale_);
  notes["loss_scaler.finite_in_a_row"] = fmt::format("{}", finite_in_a_row_);
  notes["loss_scaler.steps"] = fmt::format("{}", steps_);
  notes["loss_scaler.skipped"] = fmt::format("{}", skipped_);
}

void LossScaler::load(const std::map<std::string, std::string>& notes) {
  const double scale = number(notes, "loss_scaler.scale"), in_a_row = number(notes, "loss_scaler.finite_in_a_row"),
               steps = number(notes, "loss_scaler.steps"), skipped = number(notes, "loss_scaler.skipped");
  require(scale >= options_.min_scale && scale <= options_.max_scale, "scale", scale, "min_scale to max_scale");
  scale_ = scale;
  finite_in_a_row_ = static_cast<std::int64_t>(in_a_row);
  steps_ = static_cast<std::int64_t>(steps);
  skipped_ = static_cast<std::int64_t>(skipped);
}

}  // namespace tapecache::train
