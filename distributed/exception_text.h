#pragma once

#include <exception>
#include <string>

#pragma GCC visibility push(hidden)

namespace tapecache::distributed::detail {

/// Within a handler: what the exception says, for other ranks.
inline std::string exception_text() {
  try {
    throw;
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "an exception that is no std::exception";
  }
}

}  // namespace tapecache::distributed::detail

#pragma GCC visibility pop
