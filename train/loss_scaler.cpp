#include "tapecache/train/loss_scaler.h"

#include <charconv>
#include <cmath>
#include <sstream>
#include <vector>

#include <fmt/format.h>

#include "tapecache/autograd/tape.h"
#include "tapecache/ops/elementwise.h"
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

double count(const Notes& notes, const std::string& name) {
  const std::string& text = note(notes, name);
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) {
    throw ValueError(fmt::format("loss scaler: '{}' is '{}', expected a whole number of at least 0", name, text));
  }
  return static_cast<double>(value);
}

}  // namespace

LossScaler::LossScaler(const LossScalerOptions& options, Device device) : options_(options) {
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
  const auto held = [&](double value) { return Tensor::full({}, value, DType::kFloat64, device); };
  scale_ = held(options.initial_scale);
  inverse_ = held(1 / options.initial_scale);
  finite_in_a_row_ = held(0);
  steps_ = held(0);
  skipped_ = held(0);
}

Number LossScaler::unscale(std::span<const Parameter> parameters, const Number& non_finite) {
  if (unscaled_) throw Error("loss scaler: unscale called twice without an update in between");
  const double scale = scale_.item();
  std::vector<Tensor> gradients = detail::distinct_gradients(parameters);
  Number overflowed = ops::count_non_finite(gradients);
  unscaled_ = true;
  for (Tensor& gradient : gradients) ops::scale_in_place(gradient, 1 / scale);
  if (scale < 1) overflowed = ops::count_non_finite(gradients);  // they have grown
  const double all = overflowed.item() + non_finite.item();
  if (all != 0) {
    for (Parameter parameter : parameters) parameter.clear_gradient();
  }
  return all;
}

/// In arithmetic without a choice, which a device does as it comes.
void LossScaler::update(const Number& non_finite) {
  if (!non_finite.is_on_device()) {
    const double found = non_finite.item();
    require(std::isfinite(found) && found >= 0, "non_finite", found, "a number of values, at least 0");
  }
  const NoRecording constants;
  const Variable one(Number(1).on(scale_.device()));
  const auto constant = [&](double value) { return ops::scale(one, value); };
  const Variable bad = ops::clamp(Variable(non_finite.on(scale_.device())), 0, 1), good = ops::subtract(one, bad);
  const Variable in_a_row = ops::multiply(ops::add(Variable(finite_in_a_row_), one), good);
  // 1 where enough are in a row, else 0: both are whole numbers.
  const Variable grows =
      ops::clamp(ops::subtract(in_a_row, constant(static_cast<double>(options_.growth_interval - 1))), 0, 1);
  const Variable waits = ops::subtract(one, grows);
  // One summand is not 0, so that the factor is an option itself, to the last bit.
  const Variable factor = ops::add(ops::multiply(good, waits), ops::add(ops::scale(bad, options_.backoff_factor),
                                                                        ops::scale(grows, options_.growth_factor)));
  const Variable scale = ops::clamp(ops::multiply(Variable(scale_), factor), options_.min_scale, options_.max_scale);
  const Variable inverse = ops::divide(one, scale), skipped = ops::add(Variable(skipped_), bad),
                 steps = ops::add(Variable(steps_), one), row = ops::multiply(in_a_row, waits);
  scale_.copy_from(scale.value());
  inverse_.copy_from(inverse.value());
  finite_in_a_row_.copy_from(row.value());
  steps_.copy_from(steps.value());
  skipped_.copy_from(skipped.value());
  unscaled_ = false;
}

void LossScaler::save(std::map<std::string, std::string>& notes) const {
  const auto count = [](const Tensor& held) { return fmt::format("{}", static_cast<std::int64_t>(held.item())); };
  notes["loss_scaler.scale"] = fmt::format("{}", scale_.item());
  notes["loss_scaler.finite_in_a_row"] = count(finite_in_a_row_);
  notes["loss_scaler.steps"] = count(steps_);
  notes["loss_scaler.skipped"] = count(skipped_);
}

void LossScaler::load(const std::map<std::string, std::string>& notes) {
  const double scale = number(notes, "loss_scaler.scale"), in_a_row = count(notes, "loss_scaler.finite_in_a_row"),
               steps = count(notes, "loss_scaler.steps"), skipped = count(notes, "loss_scaler.skipped");
  require(scale >= options_.min_scale && scale <= options_.max_scale, "scale", scale, "min_scale to max_scale");
  scale_.fill(scale);
  inverse_.fill(1 / scale);
  finite_in_a_row_.fill(in_a_row);
  steps_.fill(steps);
  skipped_.fill(skipped);
  unscaled_ = false;
}

}  // namespace tapecache::train
