#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string_view>

#pragma GCC visibility push(hidden)

namespace tapecache::distributed::detail {

/// What ranks tell each other beside the data. Small enough to be sent at once, whether the receiver waits for it or
/// not.
struct Notice {
  enum Kind : std::int32_t {
    kAsk,     ///< what is call `number` of yours?
    kAnswer,  ///< `calls` made so far; where it is known, its signature and text
    kFailed,  ///< this rank gives up; why
    kLeft,    ///< this rank makes no calls after `calls`
  };

  Kind kind = kAsk;
  std::int32_t known = 0;
  std::int32_t in_call = 0;
  std::int32_t to = -1;  // of send_receive, as is `bytes`
  std::uint64_t number = 0, calls = 0, signature = 0, bytes = 0;
  char text[2048] = {};

  void set_text(std::string_view words) { std::memcpy(text, words.data(), std::min(words.size(), sizeof text - 1)); }
};

}  // namespace tapecache::distributed::detail

#pragma GCC visibility pop
