#include "tapecache/gradcache/step_readings.h"

#include <algorithm>
#include <cmath>

#include "tapecache/autograd/tape.h"
#include "tapecache/core/op_scope.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/reduce.h"
#include "tapecache/ops/update.h"

namespace tapecache::gradcache::detail {

namespace {

/// The values of scalars, in one copy where they are on one device.
std::vector<double> values_of(std::span<const Tensor> scalars) {
  const Device device = scalars[0].device();
  const auto same_device = [&](const Tensor& t) { return t.device() == device; };
  std::vector<double> values;
  if (!std::all_of(scalars.begin(), scalars.end(), same_device)) {
    for (const Tensor& scalar : scalars) values.push_back(scalar.item());
    return values;
  }
  Tensor all = Tensor::empty({static_cast<std::int64_t>(scalars.size())}, DType::kFloat64, device);
  std::int64_t i = 0;
  for (const Tensor& scalar : scalars) {
    all.slice(i, i + 1).copy_from(scalar.to(DType::kFloat64).reshape({1}));
    ++i;
  }
  return all.to_vector<double>();
}

/// Returns the mean.
double add_mean(StepResult& result, std::size_t index, const AuxiliarySum& part, double sum) {
  const double mean = sum / static_cast<double>(part.samples);
  if (result.auxiliary.size() <= index) result.auxiliary.resize(index + 1);
  StepResult::Auxiliary& known = result.auxiliary[index];
  known = {part.name, known.mean + mean, part.weight};
  return mean;
}

}  // namespace

void StepReadings::add_representations(const Tensor& representations) {
  const bool has_norm = is_floating(representations.dtype()) && representations.size(0) > 0;
  squares_.push_back(has_norm ? ops::squared_norm(std::span(&representations, 1)).on(representations.device())
                              : Tensor());
  samples_.push_back(representations.size(0));
}

void StepReadings::set_caches(std::span<const std::vector<Tensor>> caches) {
  std::vector<Tensor> defined;
  for (const std::vector<Tensor>& own : caches) {
    std::copy_if(own.begin(), own.end(), std::back_inserter(defined), [](const Tensor& c) { return c.defined(); });
  }
  non_finite_ = defined.empty() ? Tensor() : ops::count_non_finite(defined).on(defined[0].device());
}

Number StepReadings::total_loss() const {
  const NoRecording constants;
  Variable total(loss_.to(DType::kFloat64).reshape({}));
  for (const auto& [index, part] : auxiliary_) {
    const Variable sum(part.sum.to(loss_.device()));
    total = ops::add(total, ops::scale(sum, part.weight / static_cast<double>(part.samples)));
  }
  return total.value();
}

void join_step(GradientTransaction& transaction, StepResult& result, bool deferred) {
  if (result.status != StepStatus::kDone) {
    transaction.keep_random_state();
    return;
  }
  if (!deferred) {
    result.parameters = transaction.join();
    return;
  }
  result.parameters = transaction.join([&](std::span<const Parameter> given) {
    std::vector<Tensor> values{result.loss.tensor()};
    for (const Parameter& parameter : given) values.push_back(parameter.gradient());
    result.non_finite = ops::count_non_finite(values);
    result.status = StepStatus::kDeferred;
  });
}

double StepReadings::read(StepResult& result) const {
  const OpScope scope("step (not deferred)");
  std::vector<Tensor> scalars{loss_};
  for (const auto& [index, part] : auxiliary_) scalars.push_back(part.sum);
  for (const Tensor& square : squares_) {
    if (square.defined()) scalars.push_back(square);
  }
  if (non_finite_.defined()) scalars.push_back(non_finite_);
  const std::vector<double> values = values_of(scalars);

  std::size_t next = 1;
  double loss = 0;
  result.auxiliary.clear();
  for (const auto& [index, part] : auxiliary_) loss += part.weight * add_mean(result, index, part, values[next++]);
  result.loss = loss + values[0];
  result.representation_norms.clear();
  for (std::size_t i = 0; i < squares_.size(); ++i) {
    const double mean = squares_[i].defined() ? values[next++] / static_cast<double>(samples_[i]) : 0;
    result.representation_norms.push_back(std::sqrt(mean));
  }
  return non_finite_.defined() ? values[next] : 0;
}

Tensor sum_of_elements(const Tensor& values) {
  const NoRecording constants;
  return ops::sum(Variable(values.to(DType::kFloat64))).value();
}

}  // namespace tapecache::gradcache::detail
