#include "tapecache/core/processors.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <string>
#include <thread>

namespace tapecache::detail {

namespace {

constexpr double kUnlimited = std::numeric_limits<double>::infinity();

/// What one group gives: in version 2 a file with the quota, or "max", and the period; in version 1 one file for each.
double processors_of(const std::filesystem::path& group) {
  double quota = 0, period = 0;
  if (std::ifstream limit(group / "cpu.max"); !(limit >> quota >> period)) {
    std::ifstream(group / "cpu.cfs_quota_us") >> quota;
    std::ifstream(group / "cpu.cfs_period_us") >> period;
  }
  return quota > 0 && period > 0 ? quota / period : kUnlimited;
}

}  // namespace

double cgroup_processors(const std::filesystem::path& memberships, const std::filesystem::path& root) {
  double least = kUnlimited;
  std::ifstream lines(memberships);
  for (std::string line; std::getline(lines, line);) {
    // hierarchy:controllers:/path, without controllers in version 2
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    std::string controllers = ",";
    controllers.append(line, first + 1, second - first - 1).append(",");
    if (controllers != ",," && controllers.find(",cpu,") == std::string::npos) continue;
    const auto base = controllers == ",," ? root : root / "cpu";
    // In a container the path may be one of the host, of which only the end of the walk is there.
    auto path = std::filesystem::path(line.substr(second + 1)).relative_path();
    for (; !path.empty(); path = path.parent_path()) least = std::min(least, processors_of(base / path));
    least = std::min(least, processors_of(base));
  }
  return least;
}

int usable_processors() {
  cpu_set_t set;
  int count = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set)
                                                           : static_cast<int>(std::thread::hardware_concurrency());
  const double given = cgroup_processors("/proc/self/cgroup", "/sys/fs/cgroup");
  if (given < count) count = static_cast<int>(std::ceil(given));
  return std::max(1, count);
}

}  // namespace tapecache::detail
