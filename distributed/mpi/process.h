#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "tapecache/distributed/mpi/messenger.h"

#pragma GCC visibility push(hidden)

namespace tapecache::distributed::detail {

/// Starts MPI unless it is, and sees to its end when the process exits: where either takes longer than `limit`, the
/// process ends. Throws Broken.
void start_mpi(std::chrono::milliseconds limit);

/// Which process of MPI this is, and of how many, as far as MPI has been started.
struct Place {
  int rank = 0, size = 1;
};
Place place();

/// Whether this is the process that started MPI, and not a child of it.
bool is_own_process();

/// The messenger of all processes; null where there is one process alone. Throws Broken.
std::shared_ptr<Messenger> open_messenger(std::chrono::milliseconds limit);
/// What `open_messenger` gave is not used any more.
void close_messenger(const std::shared_ptr<Messenger>& messenger);

/// Says why, and ends all processes.
[[noreturn]] void abort_all(int rank, int size, const char* why, int status) noexcept;

}  // namespace tapecache::distributed::detail

#pragma GCC visibility pop
