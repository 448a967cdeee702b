#include <dlfcn.h>

#include "tapecache/ops/cuda/cudnn_library.h"

namespace tapecache::kernels::cuda {

std::optional<CudnnFunctions> load_cudnn(bool, std::string& why_not) {
  void* library = dlopen("libcudnn.so.9", RTLD_NOW | RTLD_LOCAL);  // never closed
  if (!library) {
    why_not = dlerror();
    return std::nullopt;
  }
  CudnnFunctions functions;
  const auto find = [&]<class Function>(Function*& function, const char* name) {
    function = reinterpret_cast<Function*>(dlsym(library, name));
    if (!function && why_not.empty()) why_not = std::string("libcudnn.so.9 has no ") + name;
  };
  find(functions.get_version, "cudnnGetVersion");
  find(functions.get_error_string, "cudnnGetErrorString");
  find(functions.get_last_error_string, "cudnnGetLastErrorString");
  find(functions.create, "cudnnCreate");
  find(functions.set_stream, "cudnnSetStream");
  find(functions.create_descriptor, "cudnnBackendCreateDescriptor");
  find(functions.destroy_descriptor, "cudnnBackendDestroyDescriptor");
  find(functions.set_attribute, "cudnnBackendSetAttribute");
  find(functions.get_attribute, "cudnnBackendGetAttribute");
  find(functions.finalize, "cudnnBackendFinalize");
  find(functions.execute, "cudnnBackendExecute");
  if (!why_not.empty()) return std::nullopt;
  return functions;
}

}  // namespace tapecache::kernels::cuda
