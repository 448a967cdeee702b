#include "tapecache/core/device_backend.h"
#include "tapecache/distributed/communicator.h"

namespace tapecache::distributed {

std::unique_ptr<Communicator> over_nccl(Communicator&, Device device) {
  if (device.is_cpu()) throw DeviceError("over_nccl: the device is cpu, expected one of CUDA");
  backend_of(device).devices.require("over_nccl", device.index);
  throw DeviceError("over_nccl: this build has no NCCL: nccl.h was not found when it was made");
}

}  // namespace tapecache::distributed
