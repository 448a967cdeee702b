#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "cuda_runtime.h"

/// What streams, events, captures and graphs are made of.
namespace emulation {

using Work = std::function<cudaError_t()>;

/// Work of a graph, in the order that it was recorded in, so that what a node comes after is before it.
struct Node {
  Work work;
  std::vector<std::size_t> after;
  bool forked;  ///< recorded on another stream than the one that the capture began on
};

/// A capture under way: the streams that are in it, and what they were given.
struct Capture {
  CUstream_st* origin;
  cudaStreamCaptureMode mode;
  std::thread::id thread = std::this_thread::get_id();
  std::vector<CUstream_st*> forked = {};
  std::vector<Node> nodes = {};
  bool invalid = false, ended = false;
};

/// Held while queued work runs, which may have another stream run its own.
std::recursive_mutex& mutex();
/// Whether of the streams those that are made for copies do their work at once, and the others when they must.
bool copies_first();
/// Where this process, or this thread, captures in a mode that forbids what might wait for the device: ends that
/// capture in failure and says so.
cudaError_t refuse_unsafe_call();

}  // namespace emulation

struct CUstream_st {
  bool beside = false;  // the kernels' streams
  bool asked = false;   // it goes on when somebody asks how far it is, as far as it can
  std::deque<emulation::Work> queue = {};
  std::uint64_t given = 0, done = 0;
  cudaError_t failure = cudaSuccess;
  std::shared_ptr<emulation::Capture> capture = {};  // that it is in
  std::vector<std::size_t> last = {};                // nodes of it that the next comes after
};

struct CUevent_st {
  CUstream_st* stream = nullptr;  // null where it waits for nothing
  std::uint64_t at = 0;
  std::shared_ptr<emulation::Capture> capture = {};  // that it was recorded in
  std::vector<std::size_t> last = {};
};

namespace emulation {

/// The part of cudaEventRecord, and of cudaStreamWaitEvent, that concerns captures: of a stream or an event that is in
/// one.
cudaError_t record_captured(CUevent_st&, CUstream_st*);
cudaError_t wait_captured(CUstream_st*, const CUevent_st&);
/// What else is done with an event that was last recorded in a capture fails, and the capture with it.
cudaError_t refuse_captured(const CUevent_st&);

}  // namespace emulation
