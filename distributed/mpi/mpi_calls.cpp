#include "tapecache/distributed/mpi/mpi_calls.h"

#include <signal.h>

#include <utility>

#include <fmt/format.h>

namespace tapecache::distributed::detail {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

namespace {

struct Copying {
  MPI_Comm copy = MPI_COMM_NULL;
  MPI_Request request = MPI_REQUEST_NULL;
};

}  // namespace

void check_mpi(const char* function, int code) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING + 1] = {};
  int length = 0;
  if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) throw Broken{fmt::format("{}: error {}", function, code)};
  throw Broken{fmt::format("{}: {}", function, text)};
}

MPI_Comm copy_of(MPI_Comm world, Clock::time_point deadline, std::chrono::milliseconds limit) {
  // Where it is given up it stays, since MPI may write to it later.
  auto* const copying = new Copying;
  check_mpi("MPI_Comm_idup", MPI_Comm_idup(world, &copying->copy, &copying->request));
  for (int done = 0;;) {
    check_mpi("MPI_Test", MPI_Test(&copying->request, &done, MPI_STATUS_IGNORE));
    if (done) break;
    if (limit.count() > 0 && Clock::now() > deadline) {
      throw Broken{fmt::format("a rank has not come: MPI_Comm_idup has not ended within {} ms", limit.count())};
    }
    std::this_thread::sleep_for(100us);
  }
  const MPI_Comm copy = copying->copy;
  delete copying;
  check_mpi("MPI_Comm_set_errhandler", MPI_Comm_set_errhandler(copy, MPI_ERRORS_RETURN));
  return copy;
}

std::thread start_thread(std::function<void()> function) {
  sigset_t others, before;
  sigfillset(&others);
  for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT, SIGPROF}) sigdelset(&others, own);
  pthread_sigmask(SIG_BLOCK, &others, &before);
  std::thread thread;
  try {
    thread = std::thread(std::move(function));
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

}  // namespace tapecache::distributed::detail
