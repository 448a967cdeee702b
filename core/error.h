#pragma once

// Included before anything that an older C++ does not have, and the end there: what follows would be hundreds of
// errors.
#if __cplusplus < 202002L
#error "Tapecache needs C++20: compile with -std=c++20 or newer (Meson: cpp_std=c++20, CMake: the feature cxx_std_20)"
#include <tapecache needs -std=c++20>
#endif

#include <cstddef>
#include <stdexcept>
#include <string>

namespace tapecache {

/// Base of everything the library throws. The message names the operation, the argument, what was found and what
/// was expected.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A shape, rank or size that does not fit.
class ShapeError : public Error {
 public:
  using Error::Error;
};

/// An element type that does not fit, or for which a backend has no kernel.
class DTypeError : public Error {
 public:
  using Error::Error;
};

/// A device that is absent, or operands on different devices.
class DeviceError : public Error {
 public:
  using Error::Error;
};

/// An argument outside its range: a chunk size of 0, a target index that does not exist.
class ValueError : public Error {
 public:
  using Error::Error;
};

/// A file that is missing, truncated or malformed.
class FileError : public Error {
 public:
  using Error::Error;
};

/// A tape used against its life cycle: a second backward, a variable of another tape.
class TapeError : public Error {
 public:
  using Error::Error;
};

/// NaN or Inf where a finite number is required.
class NumericalError : public Error {
 public:
  using Error::Error;
};

/// An allocation that would exceed the allocator's limit, or that the system refused.
class OutOfMemory : public Error {
 public:
  OutOfMemory(const std::string& message, std::size_t requested, std::size_t in_use, std::size_t limit)
      : Error(message), requested_(requested), in_use_(in_use), limit_(limit) {}

  /// Bytes asked for by the allocation that failed.
  std::size_t requested() const { return requested_; }
  /// Bytes in use when it was asked for.
  std::size_t in_use() const { return in_use_; }
  /// The limit in bytes, or 0 where none was set and the system refused.
  std::size_t limit() const { return limit_; }

 private:
  std::size_t requested_, in_use_, limit_;
};

}  // namespace tapecache
