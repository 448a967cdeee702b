// Loads a plugin, lets a thread that ends call it, and unloads it, again and again. Usage: load_unload PLUGIN
#include <dlfcn.h>

#include <cstdio>
#include <filesystem>
#include <iterator>
#include <thread>

namespace {

std::ptrdiff_t threads() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/task"), std::filesystem::directory_iterator());
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
    std::thread([&] { parameters = work(); }).join();
    dlclose(plugin);
    if (i == 0) at_first = threads();
    if (parameters != 2 || threads() != at_first) {
      std::printf("load %d: %d parameters, expected 2; %td threads, %td after the first\n", i, parameters, threads(), at_first);
      return 1;
    }
  }
}
