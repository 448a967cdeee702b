#include <string>

#include "tapecache/core/device_backend.h"
#include "tapecache/core/error.h"
#include "tapecache/ops/kernels/table.h"

namespace tapecache {

namespace {

[[noreturn]] void throw_no_cuda(const std::string& asked_for) {
  throw DeviceError(asked_for + ": this build has no CUDA backend");
}

}  // namespace

namespace device_backend {

int count() { return 0; }

void require(const char* op, int device) {
  throw_no_cuda(std::string(op) + ": cuda:" + std::to_string(device) + " is not available");
}

std::string name(int) { throw_no_cuda("name"); }
std::vector<std::pair<std::string, std::string>> versions(int) { throw_no_cuda("versions"); }
void* allocate(int, std::size_t) { throw_no_cuda("allocate"); }
void release(int, void*) noexcept {}
void trim(int) noexcept {}
void* allocate_pinned(std::size_t) { throw_no_cuda("allocate_pinned"); }
void release_pinned(void*) noexcept {}
bool shares_segments(int) { throw_no_cuda("shares_segments"); }
void copy_to_device(int, void*, const void*, std::size_t) { throw_no_cuda("copy_to_device"); }
void copy_to_host(int, void*, const void*, std::size_t) { throw_no_cuda("copy_to_host"); }
void copy(int, void*, const void*, std::size_t) { throw_no_cuda("copy"); }
CopyEvent copy_async(int, CopyDirection, void*, const void*, std::size_t) { throw_no_cuda("copy_async"); }
bool is_done(const CopyEvent&) noexcept { return true; }
void wait(const CopyEvent&) { throw_no_cuda("wait"); }
void wait_on_device(int, const CopyEvent&) { throw_no_cuda("wait_on_device"); }
CopyEvent end_of_work(int) { throw_no_cuda("end_of_work"); }
void set_bytes(int, void*, int, std::size_t) { throw_no_cuda("set_bytes"); }
void fill(int, DType, void*, double, std::int64_t) { throw_no_cuda("fill"); }
void convert(int, DType, void*, DType, const void*, std::int64_t) { throw_no_cuda("convert"); }
void accumulate(int, DType, void*, const void*, std::int64_t) { throw_no_cuda("accumulate"); }
std::int64_t first_non_finite(int, DType, const void*, std::int64_t) { throw_no_cuda("first_non_finite"); }
void check_indices(int, DType, const void*, std::int64_t, std::int64_t, std::int64_t*, std::int64_t) {
  throw_no_cuda("check_indices");
}
void check_rows(int, const bool*, std::int64_t, std::int64_t, std::int64_t) { throw_no_cuda("check_rows"); }
void begin_capture(int) { throw_no_cuda("begin_capture"); }
void wait_recorded(int, const CopyEvent&) { throw_no_cuda("wait_recorded"); }
Graph* end_capture(int) { throw_no_cuda("end_capture"); }
void cancel_capture(int) noexcept {}
void launch_graph(int, const Graph*) { throw_no_cuda("launch_graph"); }
void destroy_graph(int, Graph*) noexcept {}
std::uint64_t waits() { return 0; }
void synchronize(int) { throw_no_cuda("synchronize"); }

}  // namespace device_backend

namespace kernels {

const KernelTable& cuda_table(int) { throw_no_cuda("cuda"); }

}  // namespace kernels

}  // namespace tapecache
