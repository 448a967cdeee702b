#include <cstdio>
#include <exception>

#include <fmt/format.h>

#include "command_line.h"
#include "exit_code.h"

int main(int argc, char** argv) {
  using namespace tapecache;
  try {
    return program::run_command_line(argc, argv);
  } catch (const std::exception& e) {
    fmt::print(stderr, "tapecache: {}\n", e.what());
    return program::exit_code(e);
  }
}
