#pragma once

#include <stdexcept>
#include <string>

namespace tapecache::test {

/// Ranks are processes without a test framework, or threads that it does not count in.
inline void require(bool holds, const std::string& what) {
  if (!holds) throw std::logic_error(what);
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace tapecache::test
