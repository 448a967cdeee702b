#include "devices.h"

const tapecache::Device tapecache::testing::kDevice = tapecache::Device::cuda();
