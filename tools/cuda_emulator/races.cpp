#include "races.h"

#include <dlfcn.h>
#include <link.h>

#include <array>
#include <cstdio>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>

#include "cuda_runtime.h"

namespace emulation {

namespace {

constexpr std::size_t kPageBytes = 4096, kMaxPages = 4096, kStackBytes = 128 << 10;
constexpr unsigned kWarp = 32, kMaxWarps = 32;

/// The latest access of one kind to a byte. Of reads that a write must come after, one stands for all: `others` says
/// whether more than its thread, its warp or its block are among them.
struct Access {
  enum Others : std::uint8_t { kNone, kOfWarp, kOfBlock, kOfGrid };

  std::uint32_t launch = 0;
  std::uint32_t block, barriers;
  std::uint16_t thread, warp_barriers : 14, others : 2;
};

struct Byte {
  Access written, read;
};

using Page = std::array<Byte, kPageBytes>;

/// What a host thread's running kernel has accessed. Entries of earlier launches count for nothing.
class Watch {
 public:
  void begin() {
    if (pages_.size() > kMaxPages) {
      pages_.clear();
      cached_ = nullptr;
    }
    ++now_.launch;
  }

  void begin_block(std::uint32_t block) {
    now_.block = block;
    now_.barriers = 0;
    warp_barriers_.fill(0);
  }

  void block_has_met() { ++now_.barriers; }
  void warp_has_met(unsigned warp) { ++warp_barriers_[warp]; }

  void read(std::uintptr_t at, std::size_t bytes, const void* code) {
    const Access now = present();
    for (std::size_t i = 0; i < bytes; ++i) {
      Byte& byte = find(at + i);
      if (!ordered(byte.written, now, at)) return report("reads what another wrote", byte.written, now, at + i, code);
      byte.read = joined(byte.read, now, at);
    }
  }

  void write(std::uintptr_t at, std::size_t bytes, const void* code) {
    const Access now = present();
    for (std::size_t i = 0; i < bytes; ++i) {
      Byte& byte = find(at + i);
      if (!ordered(byte.written, now, at)) return report("writes what another wrote", byte.written, now, at + i, code);
      if (!ordered(byte.read, now, at)) return report("writes what another read", byte.read, now, at + i, code);
      byte.written = now;
    }
  }

 private:
  Access present() const {
    Access now = now_;
    now.thread = static_cast<std::uint16_t>(thread_of_block());
    now.warp_barriers = warp_barriers_[now.thread / kWarp] & 0x3fff;
    now.others = Access::kNone;
    return now;
  }

  Byte& find(std::uintptr_t at) {
    const std::uintptr_t number = at / kPageBytes;
    if (!cached_ || number != cached_number_) {
      std::unique_ptr<Page>& page = pages_[number];
      if (!page) page = std::make_unique<Page>();
      cached_ = page.get();
      cached_number_ = number;
    }
    return (*cached_)[at % kPageBytes];
  }

  /// Each block has shared memory of its own, though here all have the same.
  bool of_one_block(std::uintptr_t at) const { return at - shared_begin_ < shared_bytes_; }

  bool concerns(const Access& a, const Access& now, std::uintptr_t at) const {
    return a.launch == now.launch && !(a.block != now.block && of_one_block(at));
  }

  bool ordered(const Access& a, const Access& now, std::uintptr_t at) const {
    if (!concerns(a, now, at)) return true;
    if (a.block != now.block || a.others == Access::kOfGrid) return false;
    if (a.barriers != now.barriers) return true;
    if (a.thread / kWarp != now.thread / kWarp || a.others == Access::kOfBlock) return false;
    return a.warp_barriers != now.warp_barriers || (a.thread == now.thread && a.others == Access::kNone);
  }

  /// Stands for what `before` did and for `now`.
  Access joined(const Access& before, Access now, std::uintptr_t at) const {
    if (!concerns(before, now, at)) return now;
    if (before.others == Access::kOfGrid || before.block != now.block) now.others = Access::kOfGrid;
    else if (before.barriers != now.barriers) now.others = Access::kNone;
    else if (before.others == Access::kOfBlock || before.thread / kWarp != now.thread / kWarp)
      now.others = Access::kOfBlock;
    else if (before.warp_barriers != now.warp_barriers) now.others = Access::kNone;
    else if (before.others == Access::kOfWarp || before.thread != now.thread) now.others = Access::kOfWarp;
    return now;
  }

  void report(const char* what, const Access& other, const Access& now, std::uintptr_t at, const void* code) const {
    const auto name = [](const Access& a) {
      return "thread " + std::to_string(a.thread) + " of block " + std::to_string(a.block);
    };
    Dl_info place{};
    const bool known = dladdr(code, &place) != 0;
    std::string text = "race: " + name(now) + " " + what + " (" + name(other) + ") in ";
    text += of_one_block(at) ? "shared memory" : "global memory";
    text += ", with no barrier between them";
    if (known) {
      char offset[32];
      std::snprintf(
          offset, sizeof(offset), "+0x%zx",
          static_cast<std::size_t>(static_cast<const char*>(code) - static_cast<const char*>(place.dli_fbase)));
      text += std::string("; ") + place.dli_fname + offset;
    }
    fault(text.c_str());
  }

  /// Shared memory lies in the host thread's static storage, which ends at its thread pointer.
  const std::size_t shared_bytes_ = bytes_of_thread_storage();
  const std::uintptr_t shared_begin_ = reinterpret_cast<std::uintptr_t>(__builtin_thread_pointer()) - shared_bytes_;

  static std::size_t bytes_of_thread_storage() {
    std::size_t bytes = 0;
    dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void* sum) {
          for (int i = 0; i < info->dlpi_phnum; ++i) {
            const auto& segment = info->dlpi_phdr[i];
            if (segment.p_type == PT_TLS) *static_cast<std::size_t*>(sum) += segment.p_memsz + segment.p_align;
          }
          return 0;
        },
        &bytes);
    return bytes;
  }

  Access now_{};
  std::array<std::uint32_t, kMaxWarps> warp_barriers_{};
  std::unordered_map<std::uintptr_t, std::unique_ptr<Page>> pages_;
  Page* cached_ = nullptr;
  std::uintptr_t cached_number_ = 0;
};

thread_local Watch* watching = nullptr;

Watch& watch() {
  static thread_local Watch own;
  return own;
}

/// A fiber's stack has one thread after another on it, and nobody else looks at it.
bool is_on_own_stack(std::uintptr_t at) {
  const auto top = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
  return at - top < kStackBytes;
}

/// Calls the function on the kernel that runs here, if one does. Meanwhile nothing is watched: what the function calls
/// may have been compiled with calls to this.
template <class Function>
void with_watch(const void* p, Function function) {
  const auto at = reinterpret_cast<std::uintptr_t>(p);
  if (!watching || is_on_own_stack(at)) return;
  Watch& own = *std::exchange(watching, nullptr);
  function(own, at);
  watching = &own;
}

}  // namespace

void begin_watching() {
  watch().begin();
  watching = &watch();
}
void end_watching() { watching = nullptr; }
void watch_block(std::uint32_t block) { watch().begin_block(block); }
void block_has_met() { watch().block_has_met(); }
void warp_has_met(unsigned warp) { watch().warp_has_met(warp); }

void note_read(const void* p, std::size_t bytes, const void* code) {
  with_watch(p, [&](Watch& own, std::uintptr_t at) { own.read(at, bytes, code); });
}

void note_write(const void* p, std::size_t bytes, const void* code) {
  with_watch(p, [&](Watch& own, std::uintptr_t at) { own.write(at, bytes, code); });
}

}  // namespace emulation
