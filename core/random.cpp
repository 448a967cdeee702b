#include "tapecache/core/random.h"

#include <cstdint>
#include <vector>

#include <fmt/format.h>

#include "tapecache/core/error.h"
#include "tapecache/core/thread_context.h"

namespace tapecache {

bool RandomState::operator==(const RandomState& other) const {
  const auto ids = [](const RandomState& state) {
    return state.sample_ids.defined() ? state.sample_ids.to_vector<std::int64_t>() : std::vector<std::int64_t>();
  };
  return key == other.key && first_sample == other.first_sample && samples == other.samples &&
         sample_ids.defined() == other.sample_ids.defined() && ids(*this) == ids(other);
}

void begin_random_step(std::uint64_t seed, std::uint32_t step) {
  random_state() = {{seed, {step, random_state().key.step.on_device}, 0}, 0, 0, {}};
}

RandomState next_random_draw(const char* op, std::int64_t leading) {
  detail::require_own_thread(op);
  RandomState& state = random_state();
  const std::int64_t samples = state.samples > 0 ? state.samples : leading;
  if (samples > 0 && leading % samples != 0) {
    throw ShapeError(
        fmt::format("{}: axis 0 has {} rows, expected a multiple of the {} samples in view", op, leading, samples));
  }
  RandomState draw = state;
  draw.samples = samples;
  ++state.key.call;
  return draw;
}

}  // namespace tapecache
