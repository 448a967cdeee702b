// A library of NCCL's name that cannot be used: too old, or with too little in it.

extern "C" int ncclGetVersion(int* version) {
  *version = NCCL_UNFIT_VERSION;
  return 0;
}
