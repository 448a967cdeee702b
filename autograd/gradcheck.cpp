#include "tapecache/autograd/gradcheck.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "tapecache/core/forward_context.h"
#include "tapecache/core/random.h"

namespace tapecache {

namespace {

using Function = std::function<Variable(std::span<const Variable>)>;

Tensor random_cotangent(const Shape& shape, std::uint64_t seed) {
  Tensor c = Tensor::empty(shape, DType::kFloat64);
  double* p = c.mutable_data<double>();
  for (std::int64_t i = 0; i < c.numel(); ++i) {
    p[i] = 2.0 * RandomKey::uniform(RandomKey{seed}.draw(0, static_cast<std::uint32_t>(i))[0]) - 1.0;
  }
  return c;
}

std::vector<Tensor> analytic_gradients(const Function& f, std::span<const Tensor> inputs, std::uint64_t seed,
                                       Tensor& cotangent) {
  const ScopedValue random(random_state());
  Tape tape;
  std::vector<Variable> variables;
  for (const Tensor& t : inputs) variables.push_back(is_floating(t.dtype()) ? tape.leaf(t.clone()) : Variable(t));
  Variable output;
  {
    const Recording recording(tape);
    output = f(variables);
  }
  cotangent = random_cotangent(output.shape(), seed);
  const Tensor given = cotangent.to(output.device());
  if (tape.holds(output)) tape.backward(std::span(&output, 1), std::span(&given, 1));
  std::vector<Tensor> gradients;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!is_floating(inputs[i].dtype())) {
      gradients.emplace_back();
      continue;
    }
    const Tensor gradient = tape.gradient(variables[i]);
    gradients.push_back(gradient.defined() ? gradient.to(Device::cpu())
                                           : Tensor::zeros(inputs[i].shape(), DType::kFloat64));
  }
  return gradients;
}

std::vector<double> evaluate(const Function& f, std::span<const Tensor> inputs) {
  const ScopedValue random(random_state());
  const NoRecording no_tape;
  const std::vector<Variable> variables(inputs.begin(), inputs.end());
  return f(variables).value().to_vector<double>();
}

}  // namespace

GradcheckResult gradcheck(const Function& f, std::span<const Tensor> inputs, const GradcheckOptions& options) {
  if (!f) throw ValueError("gradcheck: the function is empty");
  std::vector<Tensor> work;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (is_floating(inputs[i].dtype()) && inputs[i].dtype() != DType::kFloat64) {
      throw DTypeError(fmt::format("gradcheck: input {} is {}, expected float64", i, name(inputs[i].dtype())));
    }
    work.push_back(inputs[i].clone());
  }
  Tensor cotangent;
  const std::vector<Tensor> gradients = analytic_gradients(f, inputs, options.seed, cotangent);
  const double* c = cotangent.data<double>();

  GradcheckResult result;
  result.passed = true;
  for (std::size_t i = 0; i < work.size(); ++i) {
    if (!is_floating(work[i].dtype())) continue;
    Tensor host = work[i].to(Device::cpu());
    const Device device = work[i].device();
    const auto evaluate_with = [&](std::int64_t e, double value) {
      host.mutable_data<double>()[e] = value;
      work[i] = host.to(device);
      return evaluate(f, work);
    };
    for (std::int64_t e = 0; e < work[i].numel(); ++e) {
      const double original = host.data<double>()[e];
      const std::vector<double> above = evaluate_with(e, original + options.step);
      const std::vector<double> below = evaluate_with(e, original - options.step);
      host.mutable_data<double>()[e] = original;

      double numeric = 0;
      for (std::size_t k = 0; k < above.size(); ++k) numeric += c[k] * (above[k] - below[k]);
      numeric /= 2 * options.step;
      const double analytic = gradients[i].data<double>()[e];
      const double difference = std::abs(numeric - analytic);
      const double allowed =
          options.absolute_tolerance + options.relative_tolerance * std::max(std::abs(numeric), std::abs(analytic));
      result.max_absolute_difference = std::max(result.max_absolute_difference, difference);
      if (!(difference <= allowed) && result.passed) {  // written so that NaN fails
        result.passed = false;
        result.message =
            fmt::format("input {} element {}: derivative {:.9g}, central difference {:.9g}", i, e, analytic, numeric);
      }
    }
    work[i] = host.to(device);
  }
  return result;
}

}  // namespace tapecache
