#include <array>
#include <functional>
#include <utility>
#include <vector>

#include "checks.h"
#include "cuda_device.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/captured_step.h"
#include "tapecache/core/error.h"
#include "tapecache/ops/cuda/devices.h"
#include "tapecache/ops/cuda/status.h"

// What the emulation of CUDA holds to be a graph, and what it refuses while one is captured, as CUDA does.

using namespace tapecache;
using namespace tapecache::testing;
using namespace tapecache::kernels::cuda;

namespace {

cudaStream_t make_stream() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "");
  return stream;
}

cudaEvent_t make_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "");
  return event;
}

/// An event of a stream that is not captured.
struct Outside {
  cudaEvent_t event = make_event();

  Outside() { check(cudaEventRecord(event, queues_of(0).copies), ""); }
  Outside(const Outside&) = delete;
  Outside& operator=(const Outside&) = delete;
  ~Outside() { cudaEventDestroy(event); }
};

/// Two streams, of which the first is captured, and an event of each.
struct Branches {
  cudaStream_t main = make_stream(), branch = make_stream();
  cudaEvent_t of_main = make_event(), of_branch = make_event();
  Tensor kept = Tensor::zeros({64}, DType::kUInt8, kCuda);

  explicit Branches(cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed) {
    kCuda.synchronize();
    check(cudaStreamBeginCapture(main, mode), "");
  }
  Branches(const Branches&) = delete;
  Branches& operator=(const Branches&) = delete;
  ~Branches() {
    for (const cudaEvent_t event : {of_main, of_branch}) cudaEventDestroy(event);
    for (const cudaStream_t stream : {main, branch}) cudaStreamDestroy(stream);
  }
  void fork() {
    check(cudaEventRecord(of_main, main), "");
    check(cudaStreamWaitEvent(branch, of_main, 0), "");
  }
  void join() {
    check(cudaEventRecord(of_branch, branch), "");
    check(cudaStreamWaitEvent(main, of_branch, 0), "");
  }
  void set(cudaStream_t stream, int byte) { check(cudaMemsetAsync(kept.mutable_raw(), byte, 64, stream), ""); }
  cudaError_t end() {
    cudaGraph_t graph = nullptr;
    const cudaError_t status = cudaStreamEndCapture(main, &graph);
    BOOST_TEST((graph != nullptr) == (status == cudaSuccess));
    if (graph) cudaGraphDestroy(graph);
    return status;
  }
};

bool is_same(cudaError_t found, cudaError_t expected) {
  BOOST_TEST(static_cast<int>(found) == static_cast<int>(expected));
  return found == expected;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(emulated_captures)

BOOST_AUTO_TEST_CASE(a_graph_runs_one_branch_early_and_the_other_late) {
  Branches b;
  Tensor seen = Tensor::empty_pinned({3, 64}, DType::kUInt8);
  const auto look = [&](cudaStream_t stream, int row) {
    check(cudaMemcpyAsync(seen.mutable_raw() + row * 64, b.kept.raw(), 64, cudaMemcpyDeviceToHost, stream), "");
  };
  b.set(b.main, 1);
  b.fork();
  b.set(b.branch, 2);
  look(b.main, 0);  // nothing says which of the two is first
  b.join();
  look(b.main, 1);
  b.fork();
  look(b.branch, 2);
  b.join();
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  check(cudaStreamEndCapture(b.main, &graph), "");
  check(cudaGraphInstantiate(&exec, graph, 0), "");
  check(cudaGraphDestroy(graph), "");
  const cudaStream_t plain = queues_of(0).compute;
  const bool branch_first = !emulation::runs_at_once(plain);
  for (int i = 0; i < 2; ++i) {
    check(cudaGraphLaunch(exec, plain), "");
    check(cudaStreamSynchronize(plain), "");
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(seen.raw());
    BOOST_TEST(bytes[0] == (branch_first ? 2 : 1));
    BOOST_TEST(bytes[64] == 2);
    BOOST_TEST(bytes[128] == 2);
  }
  check(cudaGraphExecDestroy(exec), "");
}

BOOST_AUTO_TEST_CASE(a_branch_must_be_joined) {
  for (const bool work : {false, true}) {
    Branches b;
    b.fork();
    if (work) b.set(b.branch, 1);
    b.join();
    BOOST_TEST(is_same(b.end(), cudaSuccess));
    BOOST_TEST((!emulation::is_captured(b.branch) && !emulation::is_captured(b.main)));
  }
  Branches b;
  b.fork();
  b.join();
  b.set(b.branch, 1);
  BOOST_TEST(is_same(b.end(), cudaErrorStreamCaptureUnjoined));
  BOOST_TEST(!emulation::is_captured(b.branch));
}

BOOST_AUTO_TEST_CASE(what_goes_over_the_bounds_of_a_capture_spoils_it) {
  const Outside outside;
  const std::pair<std::function<cudaError_t(Branches&)>, cudaError_t> cases[] = {
      {[&](Branches& b) { return cudaStreamWaitEvent(b.main, outside.event, 0); }, cudaErrorStreamCaptureIsolation},
      {[&](Branches& b) { return cudaStreamWaitEvent(b.branch, outside.event, 0); }, cudaErrorStreamCaptureIsolation},
      {[&](Branches& b) { return cudaEventQuery(b.of_main); }, cudaErrorCapturedEvent},
      {[&](Branches& b) { return cudaEventSynchronize(b.of_main); }, cudaErrorCapturedEvent},
      {[&](Branches& b) { return cudaStreamSynchronize(b.main); }, cudaErrorStreamCaptureUnsupported},
      {[&](Branches& b) { return cudaStreamSynchronize(b.branch); }, cudaErrorStreamCaptureUnsupported},
      {[&](Branches&) { return cudaDeviceSynchronize(); }, cudaErrorStreamCaptureUnsupported},
      {[&](Branches& b) { return cudaStreamDestroy(b.branch); }, cudaErrorStreamCaptureUnsupported},
      {[&](Branches& b) { return cudaMemsetAsync(b.kept.mutable_raw(), 1, 1, nullptr); },
       cudaErrorStreamCaptureImplicit},
      {[&](Branches& b) {
         cudaGraph_t graph = nullptr;
         return cudaStreamEndCapture(b.branch, &graph);
       },
       cudaErrorStreamCaptureUnmatched},
  };
  for (const auto& [call, expected] : cases) {
    BOOST_TEST_CONTEXT(cudaGetErrorString(expected)) {
      Branches b;
      b.fork();
      BOOST_TEST(is_same(call(b), expected));
      BOOST_TEST(is_same(b.end(), cudaErrorStreamCaptureInvalidated));
      BOOST_TEST((!emulation::is_captured(b.branch) && !emulation::is_captured(b.main)));
    }
  }
  // Of host memory that need not be there later nothing is recorded.
  Branches b;
  b.fork();
  const std::array<std::byte, 4> pageable{};
  BOOST_TEST(is_same(cudaMemcpyAsync(b.kept.mutable_raw(), pageable.data(), 4, cudaMemcpyHostToDevice, b.branch),
                     cudaErrorStreamCaptureUnsupported));
  b.join();
  BOOST_TEST(is_same(b.end(), cudaSuccess));
}

BOOST_AUTO_TEST_CASE(an_event_of_a_capture_is_of_no_use_after_it) {
  Branches b;
  b.set(b.main, 1);
  b.fork();
  b.join();
  BOOST_TEST(is_same(b.end(), cudaSuccess));
  BOOST_TEST(is_same(cudaEventQuery(b.of_branch), cudaErrorCapturedEvent));
  BOOST_TEST(is_same(cudaEventSynchronize(b.of_branch), cudaErrorCapturedEvent));
  BOOST_TEST(is_same(cudaStreamWaitEvent(b.main, b.of_branch, 0), cudaErrorCapturedEvent));
  check(cudaEventRecord(b.of_branch, b.branch), "");
  BOOST_TEST(is_same(cudaEventSynchronize(b.of_branch), cudaSuccess));
}

BOOST_AUTO_TEST_CASE(modes_differ_in_what_they_forbid) {
  const Outside outside;
  for (const auto mode :
       {cudaStreamCaptureModeRelaxed, cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeGlobal}) {
    const bool allowed = mode == cudaStreamCaptureModeRelaxed;
    Branches b(mode);
    void* memory = nullptr;
    BOOST_TEST(is_same(cudaHostAlloc(&memory, 16, cudaHostAllocDefault),
                       allowed ? cudaSuccess : cudaErrorStreamCaptureUnsupported));
    if (memory) BOOST_TEST(is_same(cudaFreeHost(memory), cudaSuccess));
    BOOST_TEST(is_same(cudaEventQuery(outside.event), allowed ? cudaSuccess : cudaErrorStreamCaptureUnsupported));
    BOOST_TEST(is_same(b.end(), allowed ? cudaSuccess : cudaErrorStreamCaptureInvalidated));
  }
}

BOOST_AUTO_TEST_CASE(a_recording_whose_copies_fail_leaves_nothing_behind) {
  const Tensor in = random_values({1000}, 1).pinned(), there = random_values({1000}, 2).to(kCuda);
  Tensor out, y;
  bool recording = false;
  int failures = 0;
  for (int copies = 0;; ++copies) {
    CapturedStep step(kCuda, [&] {
      if (std::exchange(recording, true)) emulation::fail_copy_after(copies);
      const Tensor first = in.to_async(kCuda);
      out = there.to_async(Device::cpu());
      y = in.to_async(kCuda);
    });
    recording = false;
    step.replay(0);
    out = y = {};
    const std::size_t device = allocator(kCuda).stats().current, host = pinned_allocator().stats().current;
    try {
      step.replay(1);
      emulation::fail_copy_after(-1);
      BOOST_TEST(same_bits(out, there));
      BOOST_TEST(same_bits(y, in));
      break;
    } catch (const DeviceError&) {
      ++failures;
    }
    emulation::fail_copy_after(-1);
    out = y = {};
    BOOST_TEST(!CapturedStep::is_capturing());
    BOOST_REQUIRE_EQUAL(allocator(kCuda).stats().current, device);
    BOOST_REQUIRE_EQUAL(pinned_allocator().stats().current, host);
    BOOST_TEST(same_bits(in.to_async(kCuda), in));
  }
  BOOST_TEST(failures == 3);
}

BOOST_AUTO_TEST_SUITE_END()
