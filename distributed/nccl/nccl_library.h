#pragma once

#include <optional>
#include <string>

#include <nccl.h>

#pragma GCC visibility push(hidden)

namespace tapecache::distributed::detail {

/// The functions of NCCL that are used.
struct NcclFunctions {
  decltype(&ncclGetVersion) get_version = nullptr;
  decltype(&ncclGetErrorString) get_error_string = nullptr;
  decltype(&ncclGetLastError) get_last_error = nullptr;
  decltype(&ncclGetUniqueId) get_unique_id = nullptr;
  decltype(&ncclCommInitRankConfig) comm_init_rank_config = nullptr;
  decltype(&ncclCommGetAsyncError) comm_get_async_error = nullptr;
  decltype(&ncclCommFinalize) comm_finalize = nullptr;
  decltype(&ncclCommDestroy) comm_destroy = nullptr;
  decltype(&ncclCommAbort) comm_abort = nullptr;
  decltype(&ncclGroupStart) group_start = nullptr;
  decltype(&ncclGroupEnd) group_end = nullptr;
  decltype(&ncclAllGather) all_gather = nullptr;
  decltype(&ncclReduceScatter) reduce_scatter = nullptr;
  decltype(&ncclAllReduce) all_reduce = nullptr;
  decltype(&ncclReduce) reduce = nullptr;
  decltype(&ncclBroadcast) broadcast = nullptr;
  decltype(&ncclSend) send = nullptr;
  decltype(&ncclRecv) receive = nullptr;
};

struct NcclLibrary {
  std::optional<NcclFunctions> functions;  // where it can be used
  std::string version;                     // "2.28.9"; empty where it does not say
  std::string why_not;                     // it cannot be used; empty where it can
};

/// What this file of NCCL has. It stays loaded.
NcclLibrary load_nccl(const char* file);

/// libnccl.so.2, which is loaded when first asked for, so that programs start where it is not.
const NcclLibrary& nccl_library();

}  // namespace tapecache::distributed::detail

#pragma GCC visibility pop
