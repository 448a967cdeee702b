#include "tapecache/gradcache/grad_cache.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "tapecache/autograd/parameters_read.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/error.h"
#include "tapecache/core/forward_context.h"
#include "tapecache/gradcache/encoded_parts.h"
#include "tapecache/gradcache/gradient_transaction.h"
#include "tapecache/gradcache/ranks.h"
#include "tapecache/gradcache/tower_run.h"

namespace tapecache::gradcache {

namespace {

/// max that keeps a NaN.
double max_or_nan(double a, double b) {
  return std::isnan(a) || std::isnan(b) ? std::numeric_limits<double>::quiet_NaN() : std::max(a, b);
}

double ratio(double difference, double reference) {
  if (difference == 0 && reference == 0) return 0;
  return reference == 0 ? std::numeric_limits<double>::infinity() : difference / reference;
}

struct Norms {
  double difference = 0, reference = 0;
};

std::vector<double> values(const Tensor& gradient, const Parameter& parameter) {
  if (!gradient.defined()) return std::vector<double>(static_cast<std::size_t>(parameter.value().numel()), 0.0);
  return gradient.to(DType::kFloat64).to_vector<double>();
}

Comparison::Difference difference_of(const Parameter& parameter, const Tensor& reference, const Tensor& other,
                                     Norms& norms) {
  const std::vector<double> a = values(reference, parameter), b = values(other, parameter);
  Comparison::Difference result{parameter.name(), 0, 0};
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(a[i] - b[i]);
    result.max_absolute = max_or_nan(result.max_absolute, difference);
    largest = max_or_nan(largest, std::abs(a[i]));
    norms.difference += difference * difference;
    norms.reference += a[i] * a[i];
  }
  result.max_relative = ratio(result.max_absolute, largest);
  return result;
}

std::vector<Parameter> parameters_read(std::span<const Tower> towers, const Loss& loss) {
  const UndoLog buffers;
  const ScopedValue no_trace(forward_context(), forward_context().repeated());
  const NoRecording no_tape;
  Representations representations;
  std::vector<Parameter> found;
  for (const Tower& tower : towers) {
    detail::TowerRun run(tower, cut_as_given(std::vector{tower.size()}), {.step = "compare"});
    run.forward(0, false);
    run.finish_forward();
    detail::add_distinct(found, run.parameters());
    for (std::size_t i = 0; i < run.names().size(); ++i) representations.add(run.names()[i], run.representations()[i]);
  }
  const ParametersRead read;
  detail::add_distinct(found, detail::parameter_itself(loss(representations)));
  detail::add_distinct(found, read.distinct());
  return found;
}

/// The same where the loss needs the samples of all ranks: of a step, which is undone.
std::vector<Parameter> parameters_given(std::span<const Tower> towers, const Loss& loss, const StepOptions& options) {
  const UndoLog buffers;
  const auto tried = Parameter::no_hooks();
  const ScopedValue context(forward_context(), forward_context());
  DirectOptions direct = options.direct();
  direct.deferred = false;
  GradientTransaction undone(GradientTransaction::Adopts::kInner);
  return direct_step(towers, loss, direct).parameters;
}

}  // namespace

double Comparison::max_relative() const {
  double largest = 0;
  for (const Comparison::Difference& p : parameters) largest = max_or_nan(largest, p.max_relative);
  return largest;
}

Comparison compare_steps(const std::function<StepResult()>& reference, const std::function<StepResult()>& other,
                         std::span<const Parameter> parameters) {
  if (!reference || !other) {
    throw ValueError(fmt::format("compare_steps: the {} step is an empty function", reference ? "other" : "reference"));
  }
  const auto tried = Parameter::no_hooks();
  GradientTransaction undone(GradientTransaction::Adopts::kInner);
  undone.add(parameters);
  const auto take = [&] {
    std::vector<Tensor> gradients;
    for (const Parameter& p : parameters) gradients.push_back(p.gradient());
    undone.clear();
    return gradients;
  };
  const ForwardContext context = forward_context();
  Comparison result;
  UndoLog buffers;
  const StepResult step_reference = reference();
  const std::vector<Tensor> reference_gradients = take();
  forward_context() = context;
  buffers.restore();
  const StepResult step_other = other();
  const std::vector<Tensor> other_gradients = take();
  result.loss_reference = step_reference.loss.item();
  result.loss_other = step_other.loss.item();
  if (step_reference.status != StepStatus::kDone || step_other.status != StepStatus::kDone) {
    // There are no gradients to compare, and no difference is not what that means.
    constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
    for (const Parameter& p : parameters) result.parameters.push_back({p.name(), kNaN, kNaN});
    result.relative_norm = kNaN;
    return result;
  }
  const auto given = [](const std::vector<Tensor>& gradients) {
    return std::any_of(gradients.begin(), gradients.end(), [](const Tensor& g) { return g.defined(); });
  };
  if (!given(reference_gradients) && !given(other_gradients)) {
    throw ValueError(
        fmt::format("compare: neither step gave any of the {} parameters a gradient: there is nothing to compare",
                    parameters.size()));
  }
  Norms norms;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    result.parameters.push_back(difference_of(parameters[i], reference_gradients[i], other_gradients[i], norms));
  }
  result.relative_norm = ratio(std::sqrt(norms.difference), std::sqrt(norms.reference));
  return result;
}

Comparison compare(std::span<const Tower> towers, const Loss& loss, const StepOptions& options,
                   std::span<const Parameter> parameters) {
  detail::Ranks ranks("compare", options.communicator);
  return detail::of_group(options.communicator, [&] {
    StepOptions read = options;
    read.deferred = false;
    ranks.together([] {},
                   [&] {
                     detail::Account names;
                     for (const Parameter& p : parameters) names.text += p.name() + '\n';
                     return names;
                   });
    Comparison result;
    ranks.check_alike([&] {
      result = compare_steps([&] { return direct_step(towers, loss, read.direct()); },
                             [&] { return cached_step(towers, loss, read); }, parameters);
    });
    return result;
  });
}

Comparison compare(std::span<const Tower> towers, const Loss& loss, const StepOptions& options) {
  if (options.communicator != nullptr) {
    return detail::of_group(options.communicator,
                            [&] { return compare(towers, loss, options, parameters_given(towers, loss, options)); });
  }
  return compare(towers, loss, options, parameters_read(towers, loss));
}

}  // namespace tapecache::gradcache
