#include "tapecache/models/rope_fields.h"

#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

namespace tapecache::models::detail {

namespace {

/// Llama 3.1's: slow pairs are slowed by a factor, fast ones are not, and those between by something between. In f32,
/// as transformers has it.
struct Llama3 {
  float factor, low, high, trained_tokens;

  float scaled(float frequency) const {
    const float length = 2 * std::numbers::pi_v<float> / frequency;
    if (length < trained_tokens / high) return frequency;
    if (length > trained_tokens / low) return frequency / factor;
    const float smooth = (trained_tokens / length - low) / (high - low);
    return (1 - smooth) * frequency / factor + smooth * frequency;
  }
};

double required(const JsonFields& fields, const char* name) {
  if (!fields.has(name)) fields.refuse(name, "a number above 0");
  return fields.positive(name, 1);
}

}  // namespace

RopeTables read_rope(const JsonFields& parameters, double base, std::int64_t head_width, std::int64_t max_tokens) {
  base = parameters.positive("rope_theta", base);
  std::vector<double> frequencies = RopeTables::frequencies(base, head_width);
  std::string name = fmt::format("rotary, base {}", base);
  if (parameters.number("partial_rotary_factor", 1) != 1) {
    parameters.refuse("partial_rotary_factor", "1, which alone is supported");
  }
  const char* const field = parameters.has("rope_type") ? "rope_type" : "type";
  const std::string type = parameters.text(field, "default");
  if (type == "linear") {
    const double factor = required(parameters, "factor");
    for (double& frequency : frequencies) frequency = static_cast<float>(frequency) / static_cast<float>(factor);
    name += fmt::format(", linear {}", factor);
  } else if (type == "llama3") {
    const double factor = required(parameters, "factor"), low = required(parameters, "low_freq_factor"),
                 high = required(parameters, "high_freq_factor");
    const std::int64_t trained = parameters.size("original_max_position_embeddings", max_tokens);
    if (high <= low) parameters.refuse("high_freq_factor", fmt::format("more than low_freq_factor, {}", low));
    const Llama3 scaling{static_cast<float>(factor), static_cast<float>(low), static_cast<float>(high),
                         static_cast<float>(trained)};
    for (double& frequency : frequencies) frequency = scaling.scaled(static_cast<float>(frequency));
    name += fmt::format(", llama3 {} {} {} {}", factor, low, high, trained);
  } else if (type != "default") {
    parameters.refuse(field, "default, linear or llama3");
  }
  return {std::move(frequencies), std::move(name)};
}

}  // namespace tapecache::models::detail
