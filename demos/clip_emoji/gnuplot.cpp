#include "gnuplot.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include <fmt/format.h>

#include "tapecache/core/error.h"

extern char** environ;

namespace clip_emoji {

namespace {

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

/// An unnamed file: unlike a pipe it cannot fill up while gnuplot waits for us.
File temporary_file() {
  File file(std::tmpfile());
  if (!file) throw tapecache::FileError(fmt::format("gnuplot: no temporary file: {}", std::strerror(errno)));
  return file;
}

std::string contents(std::FILE* file) {
  std::rewind(file);
  std::string text;
  std::array<char, 1 << 16> buffer;
  for (std::size_t n; (n = std::fread(buffer.data(), 1, buffer.size(), file)) > 0;) text.append(buffer.data(), n);
  return text;
}

}  // namespace

std::string run_gnuplot(const std::string& script) {
  const File in = temporary_file(), out = temporary_file(), messages = temporary_file();
  if (std::fwrite(script.data(), 1, script.size(), in.get()) != script.size() || std::fflush(in.get()) != 0) {
    throw tapecache::FileError("gnuplot: its script could not be written");
  }
  std::rewind(in.get());

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, fileno(in.get()), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, fileno(out.get()), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, fileno(messages.get()), STDERR_FILENO);
  std::array<char, 8> name{"gnuplot"};
  char* arguments[] = {name.data(), nullptr};
  pid_t child = 0;
  const int error = posix_spawnp(&child, "gnuplot", &actions, nullptr, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    throw tapecache::Error(fmt::format(
        "gnuplot: cannot be started ({}); it draws the report's plots, install gnuplot-nox", std::strerror(error)));
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    throw tapecache::Error(fmt::format("gnuplot: failed: {}", contents(messages.get())));
  }
  return contents(out.get());
}

}  // namespace clip_emoji
