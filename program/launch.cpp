#include "launch.h"

#include <fcntl.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <initializer_list>
#include <sstream>
#include <system_error>

#include <fmt/format.h>

#include "tapecache/core/error.h"

namespace tapecache::program {

std::string own_path() { return std::filesystem::read_symlink("/proc/self/exe").string(); }

#ifdef TAPECACHE_HAS_MPI

namespace {

/// The first of these in PATH.
std::string find_launcher(const std::vector<std::string>& names) {
  const char* const path = std::getenv("PATH");
  for (const std::string& name : names) {
    std::istringstream folders(path ? path : "");
    for (std::string folder; std::getline(folders, folder, ':');) {
      const std::string file = folder + "/" + name;
      if (!folder.empty() && ::access(file.c_str(), X_OK) == 0) return file;
    }
  }
  throw FileError(fmt::format("--processes needs the launcher of {}, and there is no {} in PATH", TAPECACHE_HAS_MPI,
                              fmt::join(names, " nor ")));
}

/// More processes than there are processors, too, and by root, who needs no leave in a container.
std::vector<std::string> launcher_command(int processes) {
  const bool is_open_mpi = std::string(TAPECACHE_HAS_MPI) == "Open MPI";
  std::vector<std::string> command{find_launcher({TAPECACHE_MPI_LAUNCHER, "mpiexec"})};
  const auto add = [&](std::initializer_list<std::string> words) { command.insert(command.end(), words); };
  if (is_open_mpi) {
    add({"--quiet", "--oversubscribe", "--bind-to", "none", "--mca", "btl_vader_single_copy_mechanism", "none"});
    if (::geteuid() == 0) add({"--allow-run-as-root"});
  } else {
    add({"-launcher", "fork"});
  }
  add({"-n", std::to_string(processes)});
  return command;
}

/// In a process group of its own, so that a terminal's Ctrl-C reaches this process alone.
pid_t start(const std::vector<std::string>& command, const sigset_t& mask) {
  std::vector<char*> words;
  for (const std::string& word : command) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child < 0) throw Error(fmt::format("--processes: cannot start a process: {}", std::strerror(errno)));
  if (child > 0) return child;
  ::setpgid(0, 0);
#ifdef __linux__
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(127);
#endif
  // Nothing is read from a terminal, which would stop a process group in its background.
  if (const int nothing = ::open("/dev/null", O_RDONLY); nothing > 0) ::dup2(nothing, STDIN_FILENO);
  ::sigprocmask(SIG_SETMASK, &mask, nullptr);
  ::execv(words.front(), words.data());
  ::_exit(127);
}

}  // namespace

int launch(int processes, const std::vector<std::string>& command) {
  std::vector<std::string> all = launcher_command(processes);
  all.insert(all.end(), command.begin(), command.end());
  // They share the processors with one another, and wait by looking again and again.
  ::setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
  sigset_t waited, before;
  ::sigemptyset(&waited);
  for (const int signal : {SIGINT, SIGTERM, SIGCHLD}) ::sigaddset(&waited, signal);
  ::sigprocmask(SIG_BLOCK, &waited, &before);
  const pid_t child = start(all, before);
  int asked = 0;
  while (true) {
    int signal = 0;
    if (::sigwait(&waited, &signal) != 0) continue;
    if (signal != SIGCHLD) {
      ::kill(child, asked == 0 ? SIGUSR1 : SIGTERM);
      asked = signal;
      continue;
    }
    int status = 0;
    if (::waitpid(child, &status, WNOHANG) != child) continue;
    const bool exited = WIFEXITED(status);
    if (asked != 0 && !(exited && WEXITSTATUS(status) == 0)) return 128 + asked;
    return exited ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
}

#else

int launch(int, const std::vector<std::string>&) {
  throw ValueError("--processes: this tapecache was built without MPI, which several processes need (-Dmpi=enabled)");
}

#endif

}  // namespace tapecache::program
