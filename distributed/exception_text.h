#pragma once

#include <exception>
#include <new>
#include <string>

#include "tapecache/distributed/communicator.h"

#pragma GCC visibility push(hidden)

namespace tapecache::distributed::detail {

inline constexpr const char* kNoException = "an exception that is no std::exception";

/// Within a handler: what the exception says, for other ranks; less where there is no memory for it.
inline std::string exception_text() noexcept {
  try {
    try {
      throw;
    } catch (const std::exception& error) {
      return error.what();
    } catch (...) {
      return kNoException;
    }
  } catch (const std::bad_alloc&) {
    return "out of memory";
  }
}

/// Within a handler: this rank gives up, with what the exception says. Needs no memory.
inline void give_up(Communicator& ranks) noexcept {
  try {
    throw;
  } catch (const std::exception& error) {
    ranks.fail(error.what());
  } catch (...) {
    ranks.fail(kNoException);
  }
}

/// Does what calls the others itself: a rank for which it fails gives up, so that none waits for it.
template <class Work>
void or_give_up(Communicator& ranks, const Work& work) {
  try {
    work();
  } catch (const CommunicationError&) {
    throw;
  } catch (...) {
    give_up(ranks);
    throw;
  }
}

}  // namespace tapecache::distributed::detail

#pragma GCC visibility pop
