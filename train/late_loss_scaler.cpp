#include "tapecache/train/late_loss_scaler.h"

#include "tapecache/autograd/tape.h"
#include "tapecache/ops/elementwise.h"

namespace tapecache::train {

LateLossScaler::LateLossScaler(Device device, const LossScalerOptions& options) : options_(options) {
  const LossScaler checked(options);
  scale_ = Tensor::full({}, checked.scale(), DType::kFloat64, device);
  inverse_ = Tensor::full({}, 1 / checked.scale(), DType::kFloat64, device);
  finite_in_a_row_ = Tensor::zeros({}, DType::kFloat64, device);
  steps_ = Tensor::zeros({}, DType::kFloat64, device);
  skipped_ = Tensor::zeros({}, DType::kFloat64, device);
}

void LateLossScaler::save(std::map<std::string, std::string>& notes) const {
  const auto count = [](const Tensor& t) { return static_cast<std::int64_t>(t.item()); };
  LossScaler here(options_);
  here.set_state({scale_.item(), count(finite_in_a_row_), count(steps_), count(skipped_)});
  here.save(notes);
}

void LateLossScaler::load(const std::map<std::string, std::string>& notes) {
  LossScaler here(options_);
  here.load(notes);
  const LossScaler::State& state = here.state();
  scale_.fill(state.scale);
  inverse_.fill(1 / state.scale);
  finite_in_a_row_.fill(static_cast<double>(state.finite_in_a_row));
  steps_.fill(static_cast<double>(state.steps));
  skipped_.fill(static_cast<double>(state.skipped));
}

void LateLossScaler::update(const Tensor& non_finite) {
  const NoRecording constants;
  const Variable one(Tensor::full({}, 1, DType::kFloat64, scale_.device()));
  const auto number = [&](double value) { return ops::scale(one, value); };
  const Variable bad = ops::clamp(Variable(non_finite), 0, 1);
  const Variable in_a_row = ops::multiply(ops::add(Variable(finite_in_a_row_), one), ops::subtract(one, bad));
  // 1 where enough are in a row, else 0: both are whole numbers.
  const Variable grows =
      ops::clamp(ops::subtract(in_a_row, number(static_cast<double>(options_.growth_interval - 1))), 0, 1);
  // One summand is not 0, so that the factor is an option itself: as the host's, to the last bit.
  const Variable stays = ops::multiply(ops::subtract(one, bad), ops::subtract(one, grows));
  const Variable factor = ops::add(stays, ops::add(ops::scale(bad, options_.backoff_factor),
                                                   ops::scale(grows, options_.growth_factor)));
  const Variable scale =
      ops::clamp(ops::multiply(Variable(scale_), factor), options_.min_scale, options_.max_scale);
  const Variable inverse = ops::divide(one, scale), skipped = ops::add(Variable(skipped_), bad);
  finite_in_a_row_.copy_from(ops::multiply(in_a_row, ops::subtract(one, grows)).value());
  scale_.copy_from(scale.value());
  inverse_.copy_from(inverse.value());
  steps_.copy_from(ops::add(Variable(steps_), one).value());
  skipped_.copy_from(skipped.value());
}

}  // namespace tapecache::train
