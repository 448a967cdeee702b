#include "wording.h"

#include <cmath>
#include <cstdlib>

#include <fmt/format.h>

namespace clip_emoji {

namespace {

std::string superscript(int value) {
  static constexpr const char* kDigits[] = {"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"};
  std::string text = value < 0 ? "⁻" : "";
  for (const char digit : std::to_string(std::abs(value))) text += kDigits[digit - '0'];
  return text;
}

}  // namespace

// No-break spaces keep a number and its unit on one line.
std::string percent(double share) { return fmt::format("{:.1f}\u00a0%", 100 * share); }

std::string grouped(std::int64_t count) {
  std::string text = std::to_string(count);
  const std::size_t sign = count < 0 ? 1 : 0;
  for (std::size_t i = text.size(); i > sign + 3;) text.insert(i -= 3, ",");
  return text;
}

std::string mebibytes(std::size_t bytes) {
  const double value = static_cast<double>(bytes) / (1 << 20);
  return value < 99.95 ? fmt::format("{:.1f}\u00a0MiB", value)
                       : fmt::format("{}\u00a0MiB", grouped(static_cast<std::int64_t>(std::llround(value))));
}

std::string scientific(double value) {
  if (!std::isfinite(value) || value == 0) return fmt::format("{}", value);
  if (std::abs(value) >= 0.01 && std::abs(value) < 100) return fmt::format("{:.2g}", value);
  const std::string text = fmt::format("{:.1e}", value);
  const std::size_t e = text.find('e');
  const std::string mantissa = text.substr(0, e);
  const std::string power = "10" + superscript(std::stoi(text.substr(e + 1)));
  return mantissa == "1.0" ? power : mantissa + "×" + power;
}

std::string duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 99.5) {
    return fmt::format("{:.{}f}\u00a0s", seconds, seconds < 9.95 ? 1 : 0);
  }
  const std::int64_t whole = std::llround(seconds);
  return fmt::format("{}\u00a0min {}\u00a0s", grouped(whole / 60), whole % 60);
}

}  // namespace clip_emoji
