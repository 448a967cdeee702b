#include "tapecache/distributed/mpi/process.h"

#include <mpi.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "tapecache/distributed/exception_text.h"

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
  Place place;
  std::chrono::milliseconds limit{0};
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

/// While it lives, MPI works on something that it cannot be asked to give up: the process ends where that has not ended
/// within the limit.
class Watchdog {
 public:
  Watchdog(const char* function, const char* waits_for, std::chrono::milliseconds limit, int status) {
    if (limit.count() == 0) return;
    std::string words = fmt::format("tapecache: {} has not ended within {} ms: {}; this process ends with status {}\n",
                                    function, limit.count(), waits_for, status);
    try {
      thread_ = start_thread([this, limit, status, words = std::move(words)] {
        std::unique_lock lock(mutex_);
        if (changed_.wait_for(lock, limit, [&] { return over_; })) return;
        std::fflush(nullptr);
        std::fputs(words.c_str(), stderr);
        std::fflush(stderr);
        _exit(status);
      });
    } catch (const std::system_error&) {  // without
    }
  }
  ~Watchdog() {
    if (!thread_.joinable()) return;
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
      changed_.notify_all();
    }
    thread_.join();
  }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
  std::thread thread_;
};

/// Of a group that has failed MPI must not be finalised, which would wait for the others.
void end_at_exit(int status) {
  Process& own = process();
  if (!is_own_process() || mpi_has_ended()) return;
  if (const std::shared_ptr<Messenger> messenger = own.messenger) {  // exit() while a communicator lives
    if (status != 0) messenger->fail(fmt::format("it exits with status {}", status));
    close_messenger(messenger);
  }
  if (!own.failed.empty()) abort_all(own.place.rank, own.place.size, own.failed.c_str(), status != 0 ? status : 1);
  if (!own.starts_mpi) return;
  const Watchdog watchdog("MPI_Finalize", "another process has not come so far", own.limit, status);
  MPI_Finalize();
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

void start_mpi(std::chrono::milliseconds limit) {
  Process& own = process();
  const std::lock_guard lock(own.mutex);
  if (mpi_has_ended()) throw Broken{"MPI has been finalised, and cannot be started again"};
  if (own.id != 0 && !is_own_process()) throw Broken{"a child made by fork has no communicator"};
  own.limit = limit;
  if (own.id == 0) {
    int is_started = 0;
    check_mpi("MPI_Initialized", MPI_Initialized(&is_started));
    if (is_started) {
      check_mpi("MPI_Query_thread", MPI_Query_thread(&own.level));
    } else {
      const Watchdog watchdog("MPI_Init_thread", "a process that was started together with this one has not begun",
                              limit, 1);
      check_mpi("MPI_Init_thread", MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &own.level));
      own.starts_mpi = true;
    }
    own.id = getpid();
    see_to_the_end();
    check_mpi("MPI_Comm_rank", MPI_Comm_rank(MPI_COMM_WORLD, &own.place.rank));
    check_mpi("MPI_Comm_size", MPI_Comm_size(MPI_COMM_WORLD, &own.place.size));
  }
  if (own.level < MPI_THREAD_SERIALIZED) {
    throw Broken{fmt::format("MPI was started for {}, expected MPI_THREAD_SERIALIZED or MPI_THREAD_MULTIPLE",
                             own.level == MPI_THREAD_SINGLE ? "MPI_THREAD_SINGLE" : "MPI_THREAD_FUNNELED")};
  }
}

Place place() { return process().place; }

bool is_own_process() { return process().id == getpid(); }

std::shared_ptr<Messenger> open_messenger(std::chrono::milliseconds limit) {
  Process& own = process();
  const std::lock_guard lock(own.mutex);
  if (!own.failed.empty()) throw Broken{own.failed};
  if (own.place.size == 1) return nullptr;
  // The program may call MPI itself only where it started it.
  const bool serves_idle = own.starts_mpi || own.level == MPI_THREAD_MULTIPLE;
  try {
    own.messenger = std::make_shared<Messenger>(MPI_COMM_WORLD, serves_idle, limit);
  } catch (const Broken& broken) {
    own.failed = broken.message;
    throw;
  } catch (...) {
    own.failed = exception_text();
    throw;
  }
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

void abort_all(int rank, int size, const char* why, int status) noexcept {
  std::fflush(nullptr);
  std::fprintf(stderr, "tapecache: rank %d of %d ends all processes: %s\n", rank, size, why);
  std::fflush(stderr);
  // A launcher that is to end all at once may lose the words that it has not read.
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  MPI_Abort(MPI_COMM_WORLD, status);
  _exit(status);
}

}  // namespace tapecache::distributed::detail
