#include "tapecache/distributed/nccl/nccl_library.h"

#include <dlfcn.h>

#include <cstdlib>

#include <fmt/format.h>

namespace tapecache::distributed::detail {

namespace {

constexpr int kOldest = 21400;  // the first whose calls need not block, so that they can be given up

/// 2.8.4 is 2804, and from 2.9 on 2.14.3 is 21403.
std::string dotted(int version) {
  const int major = version < 10000 ? 1000 : 10000;
  return fmt::format("{}.{}.{}", version / major, version % major / 100, version % 100);
}

}  // namespace

NcclLibrary load_nccl(const char* file) {
  NcclLibrary found;
  void* const library = dlopen(file, RTLD_NOW | RTLD_LOCAL);  // never closed
  if (!library) {
    found.why_not = dlerror();
    return found;
  }
  NcclFunctions functions;
  std::string missing;
  const auto find = [&]<class Function>(Function*& function, const char* name) {
    function = reinterpret_cast<Function*>(dlsym(library, name));
    if (!function) missing += fmt::format("{}{}", missing.empty() ? "" : ", ", name);
  };
  find(functions.get_version, "ncclGetVersion");
  find(functions.get_error_string, "ncclGetErrorString");
  find(functions.get_last_error, "ncclGetLastError");
  find(functions.get_unique_id, "ncclGetUniqueId");
  find(functions.comm_init_rank_config, "ncclCommInitRankConfig");
  find(functions.comm_get_async_error, "ncclCommGetAsyncError");
  find(functions.comm_finalize, "ncclCommFinalize");
  find(functions.comm_destroy, "ncclCommDestroy");
  find(functions.comm_abort, "ncclCommAbort");
  find(functions.group_start, "ncclGroupStart");
  find(functions.group_end, "ncclGroupEnd");
  find(functions.all_gather, "ncclAllGather");
  find(functions.reduce_scatter, "ncclReduceScatter");
  find(functions.all_reduce, "ncclAllReduce");
  find(functions.reduce, "ncclReduce");
  find(functions.broadcast, "ncclBroadcast");
  find(functions.send, "ncclSend");
  find(functions.receive, "ncclRecv");
  int version = 0;
  if (functions.get_version && functions.get_version(&version) == ncclSuccess) found.version = dotted(version);
  if (!found.version.empty() && version < kOldest) {
    found.why_not = fmt::format("{} is NCCL {}, expected at least {}", file, found.version, dotted(kOldest));
  } else if (!missing.empty()) {
    found.why_not = fmt::format("{} has no {}", file, missing);
  } else {
    found.functions = functions;
  }
  return found;
}

// Sums by NVLink's switches are not the same bits each time. NCCL reads this when its first group is made.
const NcclLibrary& nccl_library() {
  static const NcclLibrary found = [] {
    setenv("NCCL_NVLS_ENABLE", "0", 1);
    return load_nccl("libnccl.so.2");
  }();
  return found;
}

}  // namespace tapecache::distributed::detail
