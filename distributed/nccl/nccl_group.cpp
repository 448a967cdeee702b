#include "tapecache/distributed/nccl/nccl_group.h"

#include <algorithm>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "tapecache/ops/cuda/devices.h"

namespace tapecache::distributed::detail {

using namespace std::chrono_literals;

namespace {

constexpr int kAwake = 1000;  // polls, before this thread sleeps between them

void check_cuda(const char* function, cudaError_t status) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // else the next check would find it again
  throw NcclFailure{fmt::format("{}: {}", function, cudaGetErrorString(status))};
}

ncclDataType_t type_of(DType dtype) {
  if (dtype == DType::kFloat32) return ncclFloat32;
  return dtype == DType::kFloat64 ? ncclFloat64 : ncclInt64;
}

bool are_equal(NcclGroup::Sizes sizes) {
  return std::all_of(sizes.begin(), sizes.end(), [&](std::size_t size) { return size == sizes[0]; });
}

}  // namespace

void check_nccl(const NcclFunctions& nccl, const char* function, ncclResult_t result) {
  if (result == ncclSuccess || result == ncclInProgress) return;
  const char* const last = nccl.get_last_error(nullptr);
  const std::string detail = last != nullptr && *last != '\0' ? fmt::format(": {}", last) : "";
  throw NcclFailure{fmt::format("{}: {}{}", function, nccl.get_error_string(result), detail)};
}

NcclGroup::NcclGroup(const NcclFunctions& nccl, int device, int rank, int size, const ncclUniqueId& id,
                     const Deadline& deadline, Failure failure)
    : nccl_(nccl), device_(device), rank_(rank), failure_(std::move(failure)) {
  kernels::cuda::select_device(device_);
  try {
    int lowest = 0, highest = 0;
    check_cuda("cudaDeviceGetStreamPriorityRange", cudaDeviceGetStreamPriorityRange(&lowest, &highest));
    check_cuda("cudaStreamCreateWithPriority", cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, highest));
    for (cudaEvent_t* const event : {&before_, &after_}) {
      check_cuda("cudaEventCreateWithFlags", cudaEventCreateWithFlags(event, cudaEventDisableTiming));
    }
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    check_nccl(nccl_, "ncclCommInitRankConfig", nccl_.comm_init_rank_config(&comm_, size, id, rank, &config));
    wait_until(deadline, [&] { return is_ready(); });
  } catch (...) {
    release();
    throw;
  }
}

NcclGroup::~NcclGroup() { release(); }

void NcclGroup::release() noexcept {
  abort();
  for (const cudaEvent_t event : {before_, after_}) {
    if (event != nullptr) cudaEventDestroy(event);
  }
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

// What NCCL was doing ends soon, but not at once: until then nobody else may have the memory that it writes to.
void NcclGroup::abort() noexcept {
  if (comm_ == nullptr) return;
  nccl_.comm_abort(std::exchange(comm_, nullptr));
  if (cudaEventRecord(after_, stream_) != cudaSuccess) return;
  const Deadline patience(1s);
  while (cudaEventQuery(after_) == cudaErrorNotReady && !patience.has_passed()) std::this_thread::sleep_for(50us);
  cudaGetLastError();
}

void NcclGroup::finish(const Deadline& deadline) {
  try {
    check_nccl(nccl_, "ncclCommFinalize", nccl_.comm_finalize(comm_));
    wait_until(deadline, [&] { return is_ready(); });
    check_nccl(nccl_, "ncclCommDestroy", nccl_.comm_destroy(std::exchange(comm_, nullptr)));
  } catch (...) {
    abort();
    throw;
  }
}

bool NcclGroup::is_ready() const {
  ncclResult_t state = ncclSuccess;
  check_nccl(nccl_, "ncclCommGetAsyncError", nccl_.comm_get_async_error(comm_, &state));
  check_nccl(nccl_, "NCCL", state);
  return state == ncclSuccess;
}

bool NcclGroup::is_done() const {
  const cudaError_t status = cudaEventQuery(after_);
  if (status == cudaErrorNotReady) cudaGetLastError();
  else check_cuda("cudaEventQuery", status);
  return status == cudaSuccess && is_ready();
}

template <class IsDone>
void NcclGroup::wait_until(const Deadline& deadline, IsDone has_ended) {
  for (int polls = 0; !has_ended(); ++polls) {
    is_ready();  // throws what went wrong meanwhile
    if (std::string why = failure_(); !why.empty()) throw NcclFailure{std::move(why)};
    if (deadline.has_passed()) {
      throw NcclFailure{
          fmt::format("it has not ended within {} ms, though all ranks came to it", deadline.limit.count())};
    }
    if (polls < kAwake) std::this_thread::yield();
    else std::this_thread::sleep_for(20us);
  }
}

template <class Enqueue>
void NcclGroup::run(const Deadline& deadline, Enqueue enqueue) {
  kernels::cuda::select_device(device_);
  try {
    check_cuda("cudaEventRecord", cudaEventRecord(before_, kernels::cuda::current_stream()));
    check_cuda("cudaStreamWaitEvent", cudaStreamWaitEvent(stream_, before_, 0));
    const char* failed = nullptr;
    ncclResult_t result = ncclSuccess;
    check_nccl(nccl_, "ncclGroupStart", nccl_.group_start());
    enqueue([&](const char* function, ncclResult_t given) {
      if (failed != nullptr || given == ncclSuccess || given == ncclInProgress) return;
      failed = function;
      result = given;
    });
    const ncclResult_t ended = nccl_.group_end();
    if (failed != nullptr) check_nccl(nccl_, failed, result);
    check_nccl(nccl_, "ncclGroupEnd", ended);
    wait_until(deadline, [&] { return is_ready(); });  // NCCL has given the stream all of it
    check_cuda("cudaEventRecord", cudaEventRecord(after_, stream_));
    wait_until(deadline, [&] { return is_done(); });
  } catch (...) {
    abort();
    throw;
  }
}

void NcclGroup::all_gather(const Deadline& deadline, const std::byte* own, std::byte* all, Sizes bytes) {
  run(deadline, [&](auto give) {
    if (are_equal(bytes)) {
      give("ncclAllGather", nccl_.all_gather(own, all, bytes[0], ncclUint8, comm_, stream_));
      return;
    }
    for (std::size_t r = 0; r < bytes.size(); all += bytes[r], ++r) {
      const int root = static_cast<int>(r);
      const void* const sent = root == rank_ ? own : all;
      if (bytes[r] == 0) continue;
      give("ncclBroadcast", nccl_.broadcast(sent, all, bytes[r], ncclUint8, root, comm_, stream_));
    }
  });
}

void NcclGroup::reduce_scatter(const Deadline& deadline, const std::byte* all, std::byte* own, Sizes elements,
                               DType dtype) {
  const ncclDataType_t type = type_of(dtype);
  run(deadline, [&](auto give) {
    if (are_equal(elements)) {
      give("ncclReduceScatter", nccl_.reduce_scatter(all, own, elements[0], type, ncclSum, comm_, stream_));
      return;
    }
    for (std::size_t r = 0; r < elements.size(); all += elements[r] * size_of(dtype), ++r) {
      const int root = static_cast<int>(r);
      if (elements[r] == 0) continue;
      give("ncclReduce",
           nccl_.reduce(all, root == rank_ ? own : nullptr, elements[r], type, ncclSum, root, comm_, stream_));
    }
  });
}

void NcclGroup::all_reduce(const Deadline& deadline, std::byte* values, std::size_t elements, DType dtype,
                           Communicator::Reduction reduction) {
  const ncclRedOp_t operation = reduction == Communicator::Reduction::kSum ? ncclSum : ncclMax;
  run(deadline, [&](auto give) {
    give("ncclAllReduce", nccl_.all_reduce(values, values, elements, type_of(dtype), operation, comm_, stream_));
  });
}

void NcclGroup::broadcast(const Deadline& deadline, std::byte* values, std::size_t bytes, int root) {
  run(deadline, [&](auto give) {
    give("ncclBroadcast", nccl_.broadcast(values, values, bytes, ncclUint8, root, comm_, stream_));
  });
}

void NcclGroup::send_receive(const Deadline& deadline, const std::byte* sent, std::size_t sent_bytes, int to,
                             std::byte* received, std::size_t received_bytes, int from) {
  run(deadline, [&](auto give) {
    if (sent_bytes > 0) give("ncclSend", nccl_.send(sent, sent_bytes, ncclUint8, to, comm_, stream_));
    if (received_bytes > 0) give("ncclRecv", nccl_.receive(received, received_bytes, ncclUint8, from, comm_, stream_));
  });
}

}  // namespace tapecache::distributed::detail
