#pragma once

#include <chrono>
#include <functional>
#include <stdexcept>
#include <string>

#include "tapecache/distributed/communicator.h"

/// What tests of several ranks share. Boost.Test counts in its own thread alone, so ranks throw.
namespace tapecache::test {

inline void require(bool holds, const std::string& what) {
  if (!holds) throw std::logic_error(what);
}

inline constexpr std::chrono::milliseconds kLimit = std::chrono::seconds(30);

using Communicator = distributed::Communicator;

}  // namespace tapecache::test
