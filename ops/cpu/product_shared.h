#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <thread>

#include "tapecache/core/parallel_for.h"
#include "tapecache/ops/cpu/product.h"

/// A matrix product that all threads compute together: each block of op(B) is packed once, by all of them. No barrier
/// stands between its pieces, which are handed out in the order of the serial product; one that needs what others
/// compute waits for it. The bits are those of the serial product.
namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace product_detail {

/// Pieces of work that have been done, of which others wait for a number.
using Count = std::atomic<std::int64_t>;

template <class T, class Fused>
class SharedProduct {
 public:
  /// Whether there are rows enough for that.
  static bool pays(std::int64_t m) { return m >= 2 * kLeastDown * thread_count(); }

  explicit SharedProduct(const Product<T, Fused>& product)
      : p_(product), across_(about_equal(p_.n, kAcross, kTileCols<T>)), deep_(about_equal(p_.k, kDeep, kDepth)) {
    // Enough pieces that no thread waits long for the others, and large enough that each uses a panel many times.
    const std::int64_t pieces = kPieces * thread_count();
    const std::int64_t most = rows_in_cache<T>() / p_.height * p_.height;
    down_ = about_equal(p_.m, std::clamp((p_.m + pieces - 1) / pieces, kLeastDown, most), p_.height);
    packs_ = p_.is_packed() ? 0 : (across_ + kPackedTogether - 1) / kPackedTogether;
    rows_ = (p_.m + down_ - 1) / down_;
    deeps_ = (p_.k + deep_ - 1) / deep_;
    blocks_ = (p_.n + across_ - 1) / across_ * deeps_;
  }

  void run() {
    struct Room;
    struct Counts;
    const std::int64_t size = p_.is_packed() ? 0 : packed_size<T>(across_, std::min(deep_, p_.k));
    right_ = thread_scratch<T, Room>(std::min(blocks_, kSlots) * size);
    finished_ = new (thread_scratch<std::byte, Counts>(rows_ * sizeof(Count))) Count[static_cast<std::size_t>(rows_)];
    slot_size_ = size;
    parallel_for(blocks_ * (packs_ + rows_), 1, [this](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t block = i / (packs_ + rows_), piece = i % (packs_ + rows_);
        try {
          piece < packs_ ? pack(block, piece) : multiply(block, piece - packs_);
        } catch (...) {
          failed_ = true;  // so that nobody waits for this piece
          throw;
        }
      }
    });
  }

 private:
  static constexpr std::int64_t kPieces = 4, kLeastDown = 24, kPackedTogether = 4 * kTileCols<T>;
  static constexpr std::int64_t kSlots = 2;  // blocks that are packed at a time

  /// A multiple of `unit` that is `most` at most, or one unit, and cuts `size` into parts of about equal size.
  static std::int64_t about_equal(std::int64_t size, std::int64_t most, std::int64_t unit) {
    const std::int64_t units = (size + unit - 1) / unit, each = std::max<std::int64_t>(1, most / unit);
    const std::int64_t parts = (units + each - 1) / each;
    return (units + parts - 1) / parts * unit;
  }

  Block block_at(std::int64_t i) const {
    const std::int64_t col = i / deeps_ * across_, begin = i % deeps_ * deep_;
    return {col, std::min(across_, p_.n - col), begin, std::min(deep_, p_.k - begin)};
  }
  T* packed(std::int64_t block) const { return right_ + block % kSlots * slot_size_; }

  void wait(const Count& done, std::int64_t count) const {
    constexpr int kSpins = 2000;
    for (int spin = 0; done.load(std::memory_order_acquire) < count && !failed_; ++spin) {
      if (spin >= kSpins) std::this_thread::yield();
    }
  }
  void pack(std::int64_t i, std::int64_t piece) {
    const Block block = block_at(i);
    wait(used_[i % kSlots], i / kSlots * rows_);
    const std::int64_t first = piece * kPackedTogether, cols = std::min(kPackedTogether, block.across - first);
    if (cols > 0) p_.pack(block, first, cols, packed(i));
    packed_[i % kSlots].fetch_add(1, std::memory_order_release);
  }
  void multiply(std::int64_t i, std::int64_t piece) {
    wait(packed_[i % kSlots], (i / kSlots + 1) * packs_);
    wait(finished_[piece], i);  // what these sums are added to
    const std::int64_t row = piece * down_;
    T* room = thread_scratch<T, SharedProduct>(PackedBlocks<T>::left_size());
    p_.multiply_rows(block_at(i), packed(i), row, std::min(down_, p_.m - row), room);
    finished_[piece].fetch_add(1, std::memory_order_release);
    used_[i % kSlots].fetch_add(1, std::memory_order_release);
  }

  const Product<T, Fused>& p_;
  std::int64_t across_, deep_, down_, packs_, rows_, deeps_, blocks_, slot_size_ = 0;
  T* right_ = nullptr;
  Count* finished_ = nullptr;
  Count packed_[kSlots]{}, used_[kSlots]{};
  std::atomic<bool> failed_ = false;
};

}  // namespace product_detail

/// As `multiply`, by all threads; false where the product is so small, or has so few rows, that it is better cut into
/// parts.
template <class T, class Fused = Plain>
bool multiply_together(std::int64_t m, std::int64_t n, std::int64_t k, const Operand<T>& a, const Operand<T>& b, T* c,
                       std::int64_t c_stride, bool accumulate, const T* bias, const T* residual,
                       const Fused& fused = {}) {
  using namespace product_detail;
  constexpr std::int64_t kLeastWork = 1 << 21;
  if (n <= 0 || k <= 0 || m * n * k < kLeastWork || !SharedProduct<T, Fused>::pays(m)) return false;
  const Product<T, Fused> product{m, n, k, a, b, c, c_stride, accumulate, bias, residual, fused};
  SharedProduct<T, Fused>(product).run();
  return true;
}

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
