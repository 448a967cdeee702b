// As much of CUDA's driver as cuDNN needs to make plans: there is no device, and compiled kernels are taken and never
// run.

namespace {

constexpr int kSuccess = 0, kNoDevice = 100;
int anything;

}  // namespace

extern "C" {

int cuInit(unsigned) { return kNoDevice; }

int cuDriverGetVersion(int* version) {
  *version = 13000;
  return kSuccess;
}

int cuLibraryLoadData(void** library, const void*, void*, void**, unsigned, void*, void**, unsigned) {
  *library = &anything;
  return kSuccess;
}

int cuLibraryGetKernel(void** kernel, void*, const char*) {
  *kernel = &anything;
  return kSuccess;
}

int cuLibraryUnload(void*) { return kSuccess; }

// Asked for by name alone, since nothing runs.
int cuCtxGetCurrent() { return kNoDevice; }
int cuCtxGetLimit() { return kNoDevice; }
int cuCtxPopCurrent() { return kNoDevice; }
int cuCtxPushCurrent() { return kNoDevice; }
int cuDeviceGet() { return kNoDevice; }
int cuDeviceGetCount() { return kNoDevice; }
int cuGetErrorName() { return kNoDevice; }
int cuGetErrorString() { return kNoDevice; }
int cuKernelGetAttribute() { return kNoDevice; }
int cuKernelSetAttribute() { return kNoDevice; }
int cuLaunchCooperativeKernel() { return kNoDevice; }
int cuLaunchKernel() { return kNoDevice; }
int cuLaunchKernelEx() { return kNoDevice; }
int cuLibraryLoadFromFile() { return kNoDevice; }
int cuLinkAddData() { return kNoDevice; }
int cuLinkComplete() { return kNoDevice; }
int cuLinkCreate() { return kNoDevice; }
int cuLinkDestroy() { return kNoDevice; }
int cuOccupancyMaxPotentialClusterSize() { return kNoDevice; }
int cuStreamGetCtx() { return kNoDevice; }

}  // extern "C"
