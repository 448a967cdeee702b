#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tapecache/core/dtype.h"
#include "tapecache/core/tensor.h"

#pragma GCC visibility push(hidden)

/// What the core asks of the CUDA devices. Implemented by `ops/cuda`, or by `ops/no_cuda`, where there is no device and
/// every function but count() throws DeviceError. Decided at link time.
///
/// Work on a device is queued: only copy_to_host(), first_non_finite(), synchronize() and wait() wait for it. A failure
/// of the device throws DeviceError naming the running op. The first three also throw ValueError where a check of
/// values failed, which is then forgotten (`value_checks.h`).
namespace tapecache::device_backend {

/// Devices that can be used.
int count();
/// What the device calls itself.
std::string name(int device);
/// Names and versions of what the device is reached by.
std::vector<std::pair<std::string, std::string>> versions(int device);
/// Throws DeviceError naming `op`, the device asked for and how many there are, unless there is such a device.
void require(const char* op, int device);

/// Memory aligned to 256 bytes, or nullptr where the device has no room. Both are in the order of the device's work:
/// what is released may still be used by work that was queued before.
void* allocate(int device, std::size_t bytes);
void release(int device, void* memory) noexcept;
/// Gives the system what release() has left with the device for the next allocate(). Waits for the device.
void trim(int device) noexcept;
/// Page-locked memory of the host, which every device copies from and to by itself, or nullptr where there is no room.
void* allocate_pinned(std::size_t bytes);
void release_pinned(void* memory) noexcept;
/// Whether blocks should be cut from large pieces of memory, which is faster, and not be pieces of their own.
bool shares_segments(int device);

/// From host memory that is not page-locked, which may be changed as soon as this returns.
void copy_to_device(int device, void* to, const void* from, std::size_t bytes);
void copy_to_host(int device, void* to, const void* from, std::size_t bytes);
void copy(int device, void* to, const void* from, std::size_t bytes);

enum class CopyDirection { kToDevice, kToHost };
/// Queues a copy between a device and page-locked memory of the host. It comes after the device's work so far and after
/// the copies queued before, and beside what the device is given next.
CopyEvent copy_async(int device, CopyDirection, void* to, const void* from, std::size_t bytes);
bool is_done(const CopyEvent&) noexcept;
/// Has the host wait.
void wait(const CopyEvent&);
/// Has what the device is given from now on wait.
void wait_on_device(int device, const CopyEvent&);
/// The end of what the device was given, to be waited for like that of a copy.
CopyEvent end_of_work(int device);

void set_bytes(int device, void* to, int byte, std::size_t bytes);
void fill(int device, DType, void* to, double value, std::int64_t count);
void convert(int device, DType to_type, void* to, DType from_type, const void* from, std::int64_t count);
/// to += from, for floating types.
void accumulate(int device, DType, void* to, const void* from, std::int64_t count);
/// Place of the first NaN or Inf among elements of a floating type, -1 where there is none. Waits for the device.
std::int64_t first_non_finite(int device, DType, const void* elements, std::int64_t count);

/// Checks that do not wait; `check` is the number of what is thrown for the first element that fails. Those outside
/// [0, limit) are 0 among `checked`.
void check_indices(int device, DType, const void* indices, std::int64_t count, std::int64_t limit,
                   std::int64_t* checked, std::int64_t check);
/// That each of `rows` rows holds a true.
void check_rows(int device, const bool* flags, std::int64_t rows, std::int64_t columns, std::int64_t check);

/// What a thread gave a device while it was captured, to be given it again.
struct Graph;
/// From here on what this thread gives the device is not done but recorded. Waiting for the device throws DeviceError.
/// Values copied from the host are those of now, but those that copy_async() copies, which are what is there at each
/// launch. Its CopyEvent then is for wait_recorded() alone, and for as long as the thread is captured.
void begin_capture(int device);
/// Has what this thread is recorded to give the device from now on come after a copy that was recorded too.
void wait_recorded(int device, const CopyEvent&);
Graph* end_capture(int device);
/// Ends it without a result.
void cancel_capture(int device) noexcept;
void launch_graph(int device, const Graph*);
/// Waits for the last launch.
void destroy_graph(int device, Graph*) noexcept;

void synchronize(int device);
/// Times that the host has waited for a device.
std::uint64_t waits();

}  // namespace tapecache::device_backend

#pragma GCC visibility pop
