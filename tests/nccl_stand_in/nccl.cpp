// NCCL for ranks that are threads of one process, on the emulator's memory, whose functions are the program's that
// loads this. Nothing is done before all ranks' streams have come to it, and no call blocks: so what NCCL would do in
// its own time is done when a rank asks how far it is.

#include <nccl.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "stand_in.h"

namespace {

enum class Kind { kAllGather, kReduceScatter, kAllReduce, kReduce, kBroadcast, kSend, kReceive };

struct Call {
  Kind kind;
  const void* sent;
  void* received;
  std::size_t count;
  ncclDataType_t type;
  ncclRedOp_t operation = ncclSum;
  int peer = -1;      // root, or the other rank
  bool done = false;  // of a pair

  std::size_t bytes() const;
};

/// What a rank gave NCCL between ncclGroupStart and ncclGroupEnd.
struct Batch {
  std::vector<Call> calls;
  bool done = false;
};

struct Group {
  int size;
  std::vector<ncclComm*> members;
  std::map<std::uint64_t, std::vector<std::shared_ptr<Batch>>> meetings;  // of their batches of one number
  std::vector<std::pair<int, std::shared_ptr<Batch>>> pairs;  // batches of sends and receives alone, and whose they are
  int joined = 0, finalized = 0;
};

}  // namespace

struct ncclComm {
  std::shared_ptr<Group> group;
  int rank;
  std::uint64_t batches = 0;
  int calls_before_fault = -1;
  NcclFault fault = kNcclWell;
  ncclResult_t state = ncclSuccess;
  bool answers_late = false;  // that it is in progress, once
  bool finalized = false, aborted = false;
};

namespace {

struct Fault {
  int calls;
  NcclFault kind;
};

std::mutex mutex;
std::map<std::string, std::shared_ptr<Group>> groups;
std::map<ncclComm*, std::shared_ptr<ncclComm>> comms;
std::map<int, Fault> faults;
std::string last_error;
std::uint64_t ids = 0;
int ended = 0, aborted = 0;

thread_local int depth = 0;
thread_local std::vector<Call> given;
thread_local ncclComm* given_to = nullptr;
thread_local cudaStream_t given_on = nullptr;

ncclResult_t fails(ncclResult_t result, std::string why) {
  last_error = std::move(why);
  return result;
}

std::size_t size_of(ncclDataType_t type) {
  if (type <= ncclUint8) return 1;
  if (type == ncclFloat16 || type == ncclBfloat16) return 2;
  return type == ncclInt64 || type == ncclUint64 || type == ncclFloat64 ? 8 : 4;
}

std::size_t Call::bytes() const { return count * size_of(type); }

template <class T>
void add(std::byte* sum, const void* more, std::size_t count, ncclRedOp_t operation) {
  T* const a = reinterpret_cast<T*>(sum);
  const T* const b = static_cast<const T*>(more);
  for (std::size_t i = 0; i < count; ++i)
    a[i] = operation == ncclSum ? static_cast<T>(a[i] + b[i]) : std::max(a[i], b[i]);
}

/// Elements [first, first + count) of what all ranks sent in their call of one number, in rank order.
std::vector<std::byte> reduced(const std::vector<const Call*>& calls, std::size_t first, std::size_t count) {
  const Call& call = *calls[0];
  const std::size_t unit = size_of(call.type);
  std::vector<std::byte> sum(count * unit);
  for (std::size_t r = 0; r < calls.size(); ++r) {
    const void* const from = static_cast<const std::byte*>(calls[r]->sent) + first * unit;
    if (r == 0) std::memcpy(sum.data(), from, sum.size());
    else if (call.type == ncclFloat32) add<float>(sum.data(), from, count, call.operation);
    else if (call.type == ncclFloat64) add<double>(sum.data(), from, count, call.operation);
    else if (call.operation == ncclSum) add<std::uint64_t>(sum.data(), from, count, call.operation);
    else add<std::int64_t>(sum.data(), from, count, call.operation);
  }
  return sum;
}

void write(const Call& call, std::size_t first, const std::vector<std::byte>& bytes) {
  std::memcpy(static_cast<std::byte*>(call.received) + first, bytes.data(), bytes.size());
}

void do_collective(const std::vector<const Call*>& calls) {
  const Call& call = *calls[0];
  const std::size_t bytes = call.count * size_of(call.type), size = calls.size();
  if (call.kind == Kind::kAllGather) {
    for (std::size_t r = 0; r < size; ++r) {
      const auto* const own = static_cast<const std::byte*>(calls[r]->sent);
      const std::vector<std::byte> rows(own, own + bytes);
      for (const Call* const to : calls) write(*to, r * bytes, rows);
    }
  } else if (call.kind == Kind::kReduceScatter) {
    std::vector<std::vector<std::byte>> shares;
    for (std::size_t r = 0; r < size; ++r) shares.push_back(reduced(calls, r * call.count, call.count));
    for (std::size_t r = 0; r < size; ++r) write(*calls[r], 0, shares[r]);
  } else if (call.kind == Kind::kAllReduce) {
    const std::vector<std::byte> sum = reduced(calls, 0, call.count);
    for (const Call* const to : calls) write(*to, 0, sum);
  } else if (call.kind == Kind::kReduce) {
    write(*calls[static_cast<std::size_t>(call.peer)], 0, reduced(calls, 0, call.count));
  } else {
    const auto* const own = static_cast<const std::byte*>(calls[static_cast<std::size_t>(call.peer)]->sent);
    const std::vector<std::byte> values(own, own + bytes);
    for (const Call* const to : calls) write(*to, 0, values);
  }
}

bool is_of_a_pair(const Call& call) { return call.kind == Kind::kSend || call.kind == Kind::kReceive; }

bool reaches_memory(const Call& call, int rank) {
  const auto is_there = [](const void* p) { return p != nullptr && emulation::is_device_memory(p); };
  const bool sends = call.kind != Kind::kReceive && (call.kind != Kind::kBroadcast || call.peer == rank);
  const bool receives = call.kind != Kind::kSend && (call.kind != Kind::kReduce || call.peer == rank);
  return (!sends || is_there(call.sent)) && (!receives || is_there(call.received));
}

/// The first send of a rank to another that has not been received, or nothing.
Call* next_sent(Group& group, int from, int to) {
  for (auto& [rank, batch] : group.pairs) {
    if (rank != from) continue;
    for (Call& call : batch->calls) {
      if (call.kind == Kind::kSend && call.peer == to && !call.done) return &call;
    }
  }
  return nullptr;
}

/// Hands over what has been sent to ranks that receive it; others may still be missing. What does not fit, or nothing.
std::string do_pairs(Group& group) {
  const emulation::DeviceAccess access;
  for (auto& [rank, batch] : group.pairs) {
    for (Call& call : batch->calls) {
      if (!reaches_memory(call, rank)) return "memory that is not the device's";
      if (call.kind != Kind::kReceive || call.done) continue;
      Call* const sent = next_sent(group, call.peer, rank);
      if (sent == nullptr) continue;
      if (sent->bytes() != call.bytes()) return "another size is sent than received";
      std::memcpy(call.received, sent->sent, call.bytes());
      call.done = sent->done = true;
    }
  }
  std::erase_if(group.pairs, [](const auto& pair) {
    Batch& batch = *pair.second;
    batch.done = std::all_of(batch.calls.begin(), batch.calls.end(), [](const Call& call) { return call.done; });
    return batch.done;
  });
  return {};
}

std::string do_collectives(const std::vector<std::shared_ptr<Batch>>& batches) {
  const emulation::DeviceAccess access;
  for (std::size_t r = 0; r < batches.size(); ++r) {
    for (const Call& call : batches[r]->calls) {
      if (!reaches_memory(call, static_cast<int>(r))) return "memory that is not the device's";
    }
  }
  for (std::size_t i = 0; i < batches[0]->calls.size(); ++i) {
    std::vector<const Call*> calls;
    for (const std::shared_ptr<Batch>& batch : batches) {
      if (batch->calls.size() != batches[0]->calls.size()) return "another number of calls";
      const Call &call = batch->calls[i], &first = batches[0]->calls[i];
      if (call.kind != first.kind || call.count != first.count || call.type != first.type ||
          call.operation != first.operation || call.peer != first.peer || is_of_a_pair(call)) {
        return "calls that do not fit";
      }
      calls.push_back(&call);
    }
    do_collective(calls);
  }
  return {};
}

bool is_of_pairs(const Batch& batch) { return std::all_of(batch.calls.begin(), batch.calls.end(), is_of_a_pair); }

/// How far a rank's stream is with a batch; of sends and receives, which are between two ranks, numbers say nothing.
cudaError_t go_on(const std::shared_ptr<ncclComm>& comm, const std::shared_ptr<Batch>& batch, std::uint64_t number) {
  const std::lock_guard lock(mutex);
  if (comm->aborted || batch->done) return cudaSuccess;
  if (comm->calls_before_fault == 0) {
    if (comm->fault == kNcclRemoteError) comm->state = fails(ncclRemoteError, "the other end has closed");
    return cudaErrorNotReady;
  }
  Group& group = *comm->group;
  std::string wrong;
  if (is_of_pairs(*batch)) {
    const std::pair own(comm->rank, batch);
    if (std::find(group.pairs.begin(), group.pairs.end(), own) == group.pairs.end()) group.pairs.push_back(own);
    wrong = do_pairs(group);
  } else {
    std::vector<std::shared_ptr<Batch>>& meeting = group.meetings[number];
    meeting.resize(static_cast<std::size_t>(group.size));
    meeting[static_cast<std::size_t>(comm->rank)] = batch;
    if (std::count(meeting.begin(), meeting.end(), nullptr) > 0) return cudaErrorNotReady;
    wrong = do_collectives(meeting);
    for (const std::shared_ptr<Batch>& all : meeting) all->done = true;
    group.meetings.erase(number);
  }
  if (!wrong.empty()) {
    for (ncclComm* const member : group.members) member->state = fails(ncclInvalidUsage, wrong);
  }
  return batch->done ? cudaSuccess : cudaErrorNotReady;
}

ncclResult_t give(ncclComm_t comm, cudaStream_t stream, const Call& call) {
  const std::lock_guard lock(mutex);
  if (!comms.contains(comm) || depth == 0) return fails(ncclInvalidArgument, "no such group, or no ncclGroupStart");
  if (given_to != nullptr && (given_to != comm || given_on != stream)) {
    return fails(ncclInvalidUsage, "two groups or streams");
  }
  given_to = comm;
  given_on = stream;
  given.push_back(call);
  return ncclSuccess;
}

/// Forgets a group of a rank, if it has it.
std::shared_ptr<ncclComm> taken(ncclComm_t comm) {
  const auto found = comms.find(comm);
  if (found == comms.end()) return nullptr;
  std::shared_ptr<ncclComm> own = std::move(found->second);
  comms.erase(found);
  std::erase(own->group->members, comm);
  return own;
}

}  // namespace

extern "C" {

void nccl_stand_in_fault(int rank, int calls, NcclFault fault) {
  const std::lock_guard lock(mutex);
  if (fault == kNcclWell) faults.erase(rank);
  else faults[rank] = {calls, fault};
}

int nccl_stand_in_live() {
  const std::lock_guard lock(mutex);
  return static_cast<int>(comms.size());
}

int nccl_stand_in_ended() {
  const std::lock_guard lock(mutex);
  return ended;
}

int nccl_stand_in_aborted() {
  const std::lock_guard lock(mutex);
  return aborted;
}

ncclResult_t ncclGetVersion(int* version) {
  *version = 22809;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSystemError:
      return "unhandled system error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    default:
      return "another error";
  }
}

const char* ncclGetLastError(ncclComm_t) {
  thread_local std::string text;
  const std::lock_guard lock(mutex);
  return (text = last_error).c_str();
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  const std::lock_guard lock(mutex);
  *id = {};
  std::memcpy(id->internal, &++ids, sizeof ids);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* made, int size, ncclUniqueId id, int rank, ncclConfig_t* config) {
  const std::lock_guard lock(mutex);
  if (config == nullptr || config->magic != 0xcafebeef || config->blocking != 0) {
    return fails(ncclInvalidArgument, "a group that blocks");
  }
  std::shared_ptr<Group>& group = groups[std::string(id.internal, sizeof id.internal)];
  if (!group)
    group = std::make_shared<Group>(
        Group{.size = size, .members = {}, .meetings = {}, .pairs = {}, .joined = 0, .finalized = 0});
  if (group->size != size || rank < 0 || rank >= size) return fails(ncclInvalidArgument, "another size");
  const auto comm = std::make_shared<ncclComm>(ncclComm{.group = group, .rank = rank});
  if (const auto fault = faults.find(rank); fault != faults.end()) {
    comm->calls_before_fault = fault->second.calls + 1;
    comm->fault = fault->second.kind;
  }
  group->members.push_back(comm.get());
  ++group->joined;
  comms[comm.get()] = comm;
  *made = comm.get();
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  const std::lock_guard lock(mutex);
  if (!comms.contains(comm)) return fails(ncclInvalidArgument, "no such group");
  const Group& group = *comm->group;
  const bool joined = comm->fault != kNcclNeverConnects && group.joined == group.size;
  const bool left = !comm->finalized || group.finalized == group.size;
  *state = comm->state;
  if (*state == ncclSuccess && (!joined || !left || comm->answers_late)) *state = ncclInProgress;
  comm->answers_late = false;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  const std::lock_guard lock(mutex);
  if (!comms.contains(comm) || comm->finalized) return fails(ncclInvalidArgument, "no such group");
  comm->finalized = true;
  ++comm->group->finalized;
  return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  const std::lock_guard lock(mutex);
  const std::shared_ptr<ncclComm> own = taken(comm);
  if (!own || !own->finalized) return fails(ncclInvalidArgument, "no such group, or it is not finalized");
  ++ended;
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  const std::lock_guard lock(mutex);
  const std::shared_ptr<ncclComm> own = taken(comm);
  if (!own) return fails(ncclInvalidArgument, "no such group");
  own->aborted = true;
  for (auto& [number, meeting] : own->group->meetings) meeting[static_cast<std::size_t>(own->rank)] = nullptr;
  std::erase_if(own->group->pairs, [&](const auto& pair) { return pair.first == own->rank; });
  ++aborted;
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
  ++depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (--depth > 0 || given_to == nullptr) return ncclSuccess;
  const auto batch = std::make_shared<Batch>(Batch{std::move(given)});
  ncclComm* const to = std::exchange(given_to, nullptr);
  const cudaStream_t stream = given_on;
  given.clear();
  std::shared_ptr<ncclComm> comm;
  std::uint64_t number = 0;
  {
    const std::lock_guard lock(mutex);
    comm = comms.at(to);
    if (!is_of_pairs(*batch)) number = comm->batches++;
    comm->answers_late = true;
    if (comm->calls_before_fault > 0) --comm->calls_before_fault;
    if (comm->calls_before_fault == 0 && comm->fault == kNcclSystemError) {
      return comm->state = fails(ncclSystemError, "socket: no route to host");
    }
  }
  emulation::enqueue(stream, [=] { return go_on(comm, batch, number); });
  return ncclInProgress;
}

ncclResult_t ncclAllGather(const void* sent, void* received, std::size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  return give(comm, stream, {Kind::kAllGather, sent, received, count, type});
}

ncclResult_t ncclReduceScatter(const void* sent, void* received, std::size_t count, ncclDataType_t type,
                               ncclRedOp_t operation, ncclComm_t comm, cudaStream_t stream) {
  return give(comm, stream, {Kind::kReduceScatter, sent, received, count, type, operation});
}

ncclResult_t ncclAllReduce(const void* sent, void* received, std::size_t count, ncclDataType_t type,
                           ncclRedOp_t operation, ncclComm_t comm, cudaStream_t stream) {
  return give(comm, stream, {Kind::kAllReduce, sent, received, count, type, operation});
}

ncclResult_t ncclReduce(const void* sent, void* received, std::size_t count, ncclDataType_t type, ncclRedOp_t operation,
                        int root, ncclComm_t comm, cudaStream_t stream) {
  return give(comm, stream, {Kind::kReduce, sent, received, count, type, operation, root});
}

ncclResult_t ncclBroadcast(const void* sent, void* received, std::size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  return give(comm, stream, {Kind::kBroadcast, sent, received, count, type, ncclSum, root});
}

ncclResult_t ncclSend(const void* sent, std::size_t count, ncclDataType_t type, int to, ncclComm_t comm,
                      cudaStream_t stream) {
  return give(comm, stream, {Kind::kSend, sent, nullptr, count, type, ncclSum, to});
}

ncclResult_t ncclRecv(void* received, std::size_t count, ncclDataType_t type, int from, ncclComm_t comm,
                      cudaStream_t stream) {
  return give(comm, stream, {Kind::kReceive, nullptr, received, count, type, ncclSum, from});
}

}  // extern "C"
