#pragma once

#include <exception>
#include <new>
#include <string>

#include "tapecache/core/error.h"
#include "tapecache/distributed/communicator.h"

namespace tapecache::program {

// What the program ends with, but for 128 and the number of a signal.
inline constexpr int kDone = 0;
inline constexpr int kBadInput = 1;  // usage, files, options
inline constexpr int kFailed = 2;    // training or a check did not come to what it should
inline constexpr int kOutOfMemory = 3;
inline constexpr int kLost = 4;  // another process of the run failed, or does not answer

/// What failed on one process of a run and is thrown by all of them.
class FailedTogether : public Error {
 public:
  FailedTogether(int code, const std::string& message) : Error(message), code_(code) {}
  int code() const { return code_; }

 private:
  int code_;
};

/// What the program ends with after this exception.
inline int exit_code(const std::exception& exception) {
  if (const auto* together = dynamic_cast<const FailedTogether*>(&exception)) return together->code();
  if (dynamic_cast<const OutOfMemory*>(&exception) || dynamic_cast<const std::bad_alloc*>(&exception)) {
    return kOutOfMemory;
  }
  if (dynamic_cast<const NumericalError*>(&exception)) return kFailed;
  return dynamic_cast<const distributed::CommunicationError*>(&exception) ? kLost : kBadInput;
}

}  // namespace tapecache::program
