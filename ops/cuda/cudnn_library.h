#pragma once

#include <optional>
#include <string>

#include <cudnn.h>

namespace tapecache::kernels::cuda {

/// The functions of cuDNN that are used.
struct CudnnFunctions {
  decltype(&cudnnGetVersion) get_version = nullptr;
  decltype(&cudnnGetErrorString) get_error_string = nullptr;
  decltype(&cudnnGetLastErrorString) get_last_error_string = nullptr;
  decltype(&cudnnCreate) create = nullptr;
  decltype(&cudnnSetStream) set_stream = nullptr;
  decltype(&cudnnBackendCreateDescriptor) create_descriptor = nullptr;
  decltype(&cudnnBackendDestroyDescriptor) destroy_descriptor = nullptr;
  decltype(&cudnnBackendSetAttribute) set_attribute = nullptr;
  decltype(&cudnnBackendGetAttribute) get_attribute = nullptr;
  decltype(&cudnnBackendFinalize) finalize = nullptr;
  decltype(&cudnnBackendExecute) execute = nullptr;
};

/// Looks for cuDNN; `insisted` says that its use was demanded. Leaves in `why_not` what was wrong where it finds none.
std::optional<CudnnFunctions> load_cudnn(bool insisted, std::string& why_not);

/// cuDNN, which is loaded when first asked for, so that programs start where it is not. Null where it is not found, is
/// older than 9.16 or the environment variable TAPECACHE_CUDNN is `never`. Throws DeviceError where there is none and
/// the variable is `always`, ValueError where it is anything but never, always and auto.
const CudnnFunctions* cudnn();

/// Whether TAPECACHE_CUDNN is `always`.
bool cudnn_insisted();

/// Throws DeviceError "op: what failed: reason" with the running op.
void check(cudnnStatus_t status, const std::string& what);

}  // namespace tapecache::kernels::cuda
