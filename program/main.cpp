#include <cstdio>
#include <exception>

#include <fmt/format.h>

#include "command_line.h"
#include "model_options.h"
#include "tapecache/core/error.h"

int main(int argc, char** argv) {
  using namespace tapecache;
  const auto fail = [](const std::exception& e, int code) {
    fmt::print(stderr, "tapecache: {}\n", e.what());
    return code;
  };
  try {
    return program::run_command_line(argc, argv);
  } catch (const OutOfMemory& e) {
    return fail(e, program::kOutOfMemory);
  } catch (const std::bad_alloc& e) {
    return fail(e, program::kOutOfMemory);
  } catch (const NumericalError& e) {
    return fail(e, program::kFailed);
  } catch (const std::exception& e) {
    return fail(e, program::kBadInput);
  }
}
