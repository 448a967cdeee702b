#include "devices.h"

// The linker takes this from its library for programs that name no other device.
const tapecache::Device tapecache::testing::kDevice = tapecache::Device::cpu();
