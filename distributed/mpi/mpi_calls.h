#pragma once

#include <mpi.h>

#include <chrono>
#include <functional>
#include <string>
#include <thread>

#pragma GCC visibility push(hidden)

/// What the plug-in calls in one way only.
namespace tapecache::distributed::detail {

/// What MPI says, or what ends a call.
struct Broken {
  std::string message;
};

/// Throws Broken where `code`, which `function` returned, is an error.
void check_mpi(const char* function, int code);

/// Collective. A copy of `world` that returns errors. Throws Broken where a rank has not come by the deadline, which is
/// `limit` from its start; none where that is 0.
MPI_Comm copy_of(MPI_Comm world, std::chrono::steady_clock::time_point deadline, std::chrono::milliseconds limit);

/// A thread that takes no signals but those that tell it of its own fault, and a profiler's: others are for the
/// program's threads.
std::thread start_thread(std::function<void()> function);

}  // namespace tapecache::distributed::detail

#pragma GCC visibility pop
