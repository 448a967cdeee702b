#include "tapecache/distributed/mpi/process.h"

#include <mpi.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>

#include <fmt/format.h>

namespace tapecache::distributed::detail {

namespace {

/// MPI begins and ends once in a process.
struct Process {
  std::mutex mutex;
  pid_t id = 0;
  bool starts_mpi = false;  // and ends it
  int level = MPI_THREAD_SINGLE;
  std::shared_ptr<Messenger> messenger;
  std::string failed;
  int rank = 0, size = 1;
};

// Never destroyed: the exit of the process uses it.
Process& process() {
  static Process* const only = new Process;
  return *only;
}

bool mpi_has_ended() {
  int ended = 0;
  return MPI_Finalized(&ended) == MPI_SUCCESS && ended != 0;
}

/// Of a group that has failed MPI must not be finalised, which would wait for the others.
void end_at_exit(int status) {
  Process& own = process();
  if (!is_own_process() || mpi_has_ended()) return;
  if (const std::shared_ptr<Messenger> messenger = own.messenger) {  // exit() while a communicator lives
    if (status != 0) messenger->fail(fmt::format("it exits with status {}", status));
    close_messenger(messenger);
  }
  if (!own.failed.empty()) abort_all(own.rank, own.size, own.failed, status != 0 ? status : 1);
  if (own.starts_mpi) MPI_Finalize();
}

#if defined(__GLIBC__)
void see_to_the_end() {
  on_exit([](int status, void*) { end_at_exit(status); }, nullptr);
}
#else
void see_to_the_end() {
  std::atexit([] { end_at_exit(0); });
}
#endif

}  // namespace

void start_mpi() {
  Process& own = process();
  const std::lock_guard lock(own.mutex);
  if (mpi_has_ended()) throw Broken{"MPI has been finalised, and cannot be started again"};
  if (own.id != 0) return;
  int is_started = 0;
  check_mpi("MPI_Initialized", MPI_Initialized(&is_started));
  if (is_started) {
    check_mpi("MPI_Query_thread", MPI_Query_thread(&own.level));
  } else {
    check_mpi("MPI_Init_thread", MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &own.level));
    own.starts_mpi = true;
  }
  own.id = getpid();
  see_to_the_end();
  if (own.level < MPI_THREAD_SERIALIZED) {
    throw Broken{fmt::format("MPI was started for {}, expected MPI_THREAD_SERIALIZED or MPI_THREAD_MULTIPLE",
                             own.level == MPI_THREAD_SINGLE ? "MPI_THREAD_SINGLE" : "MPI_THREAD_FUNNELED")};
  }
}

bool is_own_process() { return process().id == getpid(); }

std::shared_ptr<Messenger> open_messenger(std::chrono::milliseconds limit) {
  Process& own = process();
  const std::lock_guard lock(own.mutex);
  if (!own.failed.empty()) throw Broken{own.failed};
  check_mpi("MPI_Comm_rank", MPI_Comm_rank(MPI_COMM_WORLD, &own.rank));
  check_mpi("MPI_Comm_size", MPI_Comm_size(MPI_COMM_WORLD, &own.size));
  if (own.size == 1) return nullptr;
  // The program may call MPI itself only where it started it.
  const bool serves_idle = own.starts_mpi || own.level == MPI_THREAD_MULTIPLE;
  own.messenger = std::make_shared<Messenger>(MPI_COMM_WORLD, serves_idle, limit);
  return own.messenger;
}

void close_messenger(const std::shared_ptr<Messenger>& messenger) {
  std::string failed = messenger->leave();
  Process& own = process();
  const std::lock_guard lock(own.mutex);
  own.messenger = nullptr;
  if (failed.empty()) return;
  own.failed = std::move(failed);
  // MPI may still write to its memory.
  new std::shared_ptr<Messenger>(messenger);
}

void abort_all(int rank, int size, const std::string& why, int status) {
  std::fflush(nullptr);
  const std::string message = fmt::format("tapecache: rank {} of {} ends all processes: {}\n", rank, size, why);
  std::fputs(message.c_str(), stderr);
  std::fflush(stderr);
  // A launcher that is to end all at once may lose the words that it has not read.
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  MPI_Abort(MPI_COMM_WORLD, status);
  _exit(status);
}

}  // namespace tapecache::distributed::detail
