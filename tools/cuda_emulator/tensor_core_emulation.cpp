#include "tensor_core_emulation.h"

#include <deque>
#include <vector>

#include "races.h"

namespace emulation {

namespace {

constexpr unsigned kMaxThreads = 1024, kWarp = 32;
constexpr std::uint16_t kNotANumber[8] = {0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff};

struct Copy {
  void* to;
  const void* from;
  std::size_t bytes;
  bool present;
  const void* code;
};

thread_local const void* shown[kMaxThreads];

/// The copies that one thread has not waited for.
struct Copies {
  std::uint64_t block = 0;  // that they belong to
  std::deque<std::vector<Copy>> groups;
  std::vector<Copy> open;
};

Copies& copies_of_thread() {
  static thread_local std::vector<Copies> all(kMaxThreads);
  Copies& own = all[thread_of_block()];
  if (own.block != blocks_begun()) own = {blocks_begun(), {}, {}};
  return own;
}

}  // namespace

const void* const* show_warp(const void* own) {
  const void** warp = shown + thread_of_block() / kWarp * kWarp;
  warp[lane()] = own;
  meet(Meeting::kInstruction, ~0u);
  for (unsigned i = 0; i < kWarp; ++i) {
    if (warp[i]) continue;
    fault("an instruction of tensor cores in which not all lanes of the warp take part");
    warp[i] = own;
  }
  return warp;
}

void hide_warp() {
  meet(Meeting::kInstruction, ~0u);
  shown[thread_of_block()] = nullptr;
}

const std::uint16_t* matrix_row(const void* row) {
  if (is_shared_memory(row, 16) && reinterpret_cast<std::uintptr_t>(row) % 16 == 0) {
    return static_cast<const std::uint16_t*>(row);
  }
  fault("ldmatrix: a row that is not 16 aligned bytes of shared memory");
  return kNotANumber;
}

void queue_copy(void* to, const void* from, std::size_t bytes, bool present) {
  if (!is_shared_memory(to, bytes) || reinterpret_cast<std::uintptr_t>(to) % bytes != 0) {
    return fault("cp.async: to what is not as many aligned bytes of shared memory");
  }
  if (present && (!is_device_memory(from) || reinterpret_cast<std::uintptr_t>(from) % bytes != 0)) {
    return fault("cp.async: from what is not as many aligned bytes of device memory");
  }
  std::memset(to, 0xff, bytes);
  copies_of_thread().open.push_back({to, from, bytes, present, __builtin_return_address(0)});
}

void commit_copies() {
  Copies& own = copies_of_thread();
  own.groups.push_back(std::move(own.open));
  own.open.clear();
}

void wait_for_copies(std::size_t groups_left) {
  Copies& own = copies_of_thread();
  for (; own.groups.size() > groups_left; own.groups.pop_front()) {
    for (const Copy& copy : own.groups.front()) {
      if (copy.present) note_read(copy.from, copy.bytes, copy.code);
      note_write(copy.to, copy.bytes, copy.code);
      if (copy.present) std::memcpy(copy.to, copy.from, copy.bytes);
      else std::memset(copy.to, 0, copy.bytes);
    }
  }
}

}  // namespace emulation
