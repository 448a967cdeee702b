#pragma once

/// What tests ask of the stand-in for NCCL, by names that they look up in it.

extern "C" {

enum NcclFault : int {
  kNcclWell,
  kNcclNeverConnects,  ///< ncclCommInitRankConfig does not end
  kNcclSystemError,    ///< ncclGroupEnd says so
  kNcclRemoteError,    ///< ncclCommGetAsyncError says so, while the work never ends
  kNcclHangs,          ///< the work never ends
};

/// What this rank's groups do in the call after so many.
void nccl_stand_in_fault(int rank, int calls, NcclFault fault);
/// Groups that ranks have now, how many they have ended in the orderly way, and how many they gave up.
int nccl_stand_in_live();
int nccl_stand_in_ended();
int nccl_stand_in_aborted();

}  // extern "C"
