#include "tapecache/autograd/state.h"
#include "tapecache/train/optimizer.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "tapecache/autograd/modes.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/error.h"
#include "tapecache/ops/elementwise.h"

namespace tapecache::train {

Ema::Ema(std::span<const Parameter> parameters, const EmaOptions& options, std::span<const Buffer> buffers)
    : options_(options) {
  if (!(options.decay >= 0 && options.decay < 1)) {
    throw ValueError(fmt::format("ema: decay is {}, expected 0 <= decay < 1", options.decay));
  }
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (!parameters[i].defined()) {
      throw ValueError(
          fmt::format("ema: parameter {} of {} is undefined, expected one with a value", i, parameters.size()));
    }
  }
  for (const auto& [name, value] : buffers) {
    if (!value.defined()) throw ValueError(fmt::format("ema: buffer '{}' is undefined, expected a tensor", name));
  }
  std::set<std::string> names;
  for (const auto& [name, value] : state_of(parameters, buffers)) {
    if (!names.insert(name).second)
      throw ValueError(fmt::format("ema: two parameters or buffers are named '{}'", name));
    live_.push_back(value);
    state_.push_back({"ema." + name, value.clone()});
  }
  state_.push_back({"ema", Tensor::zeros({}, DType::kInt64)});
}

std::int64_t Ema::updates() const { return state_.back().value.to_vector<std::int64_t>().front(); }

void Ema::update() {
  const auto n = static_cast<double>(updates());
  const double decay = options_.warm_up ? std::min(options_.decay, (1 + n) / (10 + n)) : options_.decay;
  const NoRecording no_tape;
  std::vector<Tensor> averages;
  for (std::size_t i = 0; i < live_.size(); ++i) {
    Tensor average = state_[i].value;
    average.move_to(live_[i].device());  // where the model was moved since
    averages.push_back(ops::add(average, ops::scale(ops::subtract(live_[i], average), 1 - decay)).value());
  }
  for (std::size_t i = 0; i < averages.size(); ++i) Tensor(state_[i].value).copy_from(averages[i]);
  ++*Tensor(state_.back().value).mutable_data<std::int64_t>();
}

Ema::Scope::Scope(const Ema& ema) : live_(ema.live_) {
  std::vector<Tensor> averages;
  for (std::size_t i = 0; i < live_.size(); ++i) {
    own_.push_back(live_[i].clone());
    averages.push_back(ema.state_[i].value.to(live_[i].device()));
  }
  for (std::size_t i = 0; i < live_.size(); ++i) live_[i].copy_from(averages[i]);
}

Ema::Scope::~Scope() {
  for (std::size_t i = 0; i < live_.size(); ++i) live_[i].copy_from(own_[i]);
}

}  // namespace tapecache::train
