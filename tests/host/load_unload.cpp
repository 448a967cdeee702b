// Loads a plugin, lets a thread that ends call it, and unloads it, again and again. Usage: load_unload PLUGIN
#include <dlfcn.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <iterator>
#include <string>
#include <thread>

namespace {

std::ptrdiff_t threads() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/task"), std::filesystem::directory_iterator());
}

/// A thread that has been joined is among those of its process for a moment still.
void wait_for_end(pid_t thread) {
  const std::string task = "/proc/self/task/" + std::to_string(thread);
  for (int tries = 0; tries < 10000 && std::filesystem::exists(task); ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace

int main(int, char** arguments) {
  std::ptrdiff_t at_first = 0;
  for (int i = 0; i < 20; ++i) {
    void* const plugin = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    if (!plugin) {
      std::printf("%s\n", dlerror());
      return 1;
    }
    const auto work = reinterpret_cast<int (*)()>(dlsym(plugin, "work"));
    int parameters = 0;
    pid_t caller = 0;
    std::thread([&] {
      caller = gettid();
      parameters = work();
    }).join();
    wait_for_end(caller);
    dlclose(plugin);
    if (i == 0) at_first = threads();
    const std::ptrdiff_t now = threads();
    if (parameters != 2 || now != at_first) {
      std::printf("load %d: %d parameters, expected 2; %td threads, %td after the first\n", i, parameters, now,
                  at_first);
      return 1;
    }
  }
}
