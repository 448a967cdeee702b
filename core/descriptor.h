#pragma once

#include <unistd.h>

#pragma GCC visibility push(hidden)

namespace tapecache::detail {

/// A file descriptor, closed with this; -1 is none.
class Descriptor {
 public:
  explicit Descriptor(int value = -1) : value_(value) {}
  ~Descriptor() { reset(); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  void reset(int value = -1) {
    if (value_ >= 0) ::close(value_);
    value_ = value;
  }
  int get() const { return value_; }
  explicit operator bool() const { return value_ >= 0; }

 private:
  int value_;
};

}  // namespace tapecache::detail

#pragma GCC visibility pop
