#pragma once

#include <filesystem>

#pragma GCC visibility push(hidden)

namespace tapecache::detail {

/// How many processors this process may keep busy: those it may run on, and no more than its control groups give it
/// time for, rounded up; at least 1.
int usable_processors();

/// The least that a control group of this process, or one that holds it, gives time for; infinity where none says.
/// `memberships` is a file like /proc/self/cgroup, `root` a folder like /sys/fs/cgroup.
double cgroup_processors(const std::filesystem::path& memberships, const std::filesystem::path& root);

}  // namespace tapecache::detail

#pragma GCC visibility pop
