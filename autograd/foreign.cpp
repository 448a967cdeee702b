#include "tapecache/autograd/function.h"

#include <memory>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "tapecache/autograd/tape.h"

namespace tapecache {

ForeignParameters::ForeignParameters(std::string name) : stand_in_(std::move(name), Tensor::zeros({0})) {}

Variable ForeignParameters::record(const char* op, Tensor output, Derivative derivative) const {
  if (!derivative) throw ValueError(fmt::format("{}: the derivative is an empty function", op));
  Variable result(std::move(output));
  const auto owned = std::make_shared<const Derivative>(std::move(derivative));
  const auto call = [function = owned.get()](Backward& context) { (*function)(context.output_gradient()); };
  Tape::append(op, std::span(&result, 1), {stand_in_}, {}, detail::derivative_of(call), owned);
  return result;
}

}  // namespace tapecache
