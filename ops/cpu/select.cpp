#include <cstdlib>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "tapecache/core/error.h"
#include "tapecache/ops/cpu/variant.h"

// Compiled for any processor of the kind, since it decides what this one can run.
namespace tapecache::kernels {

namespace {

using cpu::Variant;

bool can_run(const Variant& variant) {
#if defined(__x86_64__)
  const cpu::Needs& needs = variant.needs;
  const bool sse42 = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  return (!needs.sse42 || sse42) && (!needs.avx2 || avx2) && (!needs.avx512 || avx512);
#else
  return variant.name != nullptr;  // there is one, and nothing to ask
#endif
}

std::string names() {
  std::string all;
  for (const Variant* v : cpu::variants()) all += fmt::format("{}{}", all.empty() ? "" : ", ", v->name);
  return all;
}

const Variant& named(std::string_view name) {
  for (const Variant* variant : cpu::variants()) {
    if (variant->name != name) continue;
    if (can_run(*variant)) return *variant;
    throw DeviceError(fmt::format("TAPECACHE_CPU is {}, whose instructions this processor does not have", name));
  }
  throw ValueError(fmt::format("TAPECACHE_CPU is '{}', expected one of {}", name, names()));
}

const Variant& chosen() {
  static const Variant& variant = []() -> const Variant& {
    if (const char* name = std::getenv("TAPECACHE_CPU"); name && *name) return named(name);
    const Variant* best = nullptr;
    for (const Variant* v : cpu::variants()) {
      if (can_run(*v)) best = v;
    }
    if (best) return *best;
    throw DeviceError(
        fmt::format("this build's kernels ({}) need instructions that this processor does not have; build "
                    "with -Dcpu=portable",
                    names()));
  }();
  return variant;
}

}  // namespace

std::string_view cpu_variant() { return chosen().name; }

const KernelTable& cpu_table() { return *chosen().table; }

}  // namespace tapecache::kernels
