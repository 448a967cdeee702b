#include "tapecache/train/late_loss_scaler.h"

#include "tapecache/autograd/tape.h"
#include "tapecache/ops/elementwise.h"

namespace tapecache::train {

LateLossScaler::LateLossScaler(Device device, const LossScalerOptions& options) : options_(options) {
  const LossScaler checked(options);
  scale_ = Tensor::full({}, checked.scale(), DType::kFloat64, device);
  inverse_ = Tensor::full({}, 1 / checked.scale(), DType::kFloat64, device);
  finite_in_a_row_ = Tensor::zeros({}, DType::kFloat64, device);
  skipped_ = Tensor::zeros({}, DType::kFloat64, device);
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
  skipped_.copy_from(skipped.value());
}

}  // namespace tapecache::train
