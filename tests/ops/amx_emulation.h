#pragma once

#include <csignal>
#include <cstdint>
#include <cstring>

#include <ucontext.h>

#include "tapecache/ops/cpu/amx_tiles.h"

namespace tapecache::testing {

/// While it lives, tile instructions that the processor does not know are decoded from their machine code and carried
/// out by the model of them: what the compiler made of the code is then what runs. Ends the program at any other
/// unknown instruction.
class AmxEmulation {
 public:
  AmxEmulation() {
    struct sigaction action = {};
    action.sa_sigaction = &carry_out;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGILL, &action, &before_);
  }
  ~AmxEmulation() { sigaction(SIGILL, &before_, nullptr); }
  AmxEmulation(const AmxEmulation&) = delete;
  AmxEmulation& operator=(const AmxEmulation&) = delete;

  /// Whether the last product gave the tiles back, and how many instructions there were.
  static bool released() { return !state().configured; }
  static std::int64_t instructions() { return state().instructions; }

 private:
  struct State {
    bool configured = false;
    std::int64_t instructions = 0;
    std::uint32_t tiles[8][16][16] = {};
  };
  static State& state() {
    static State one;
    return one;
  }

  [[noreturn]] static void refuse() {
    std::signal(SIGILL, SIG_DFL);
    std::raise(SIGILL);
    __builtin_trap();
  }

  /// A tile operand's address and stride: of what follows the opcode, which it moves on past.
  struct Memory {
    std::uint64_t base, stride;
  };
  static Memory memory(const std::uint8_t*& at, const greg_t* registers, bool x, bool b) {
    static constexpr int kRegisters[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                         REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    const auto value = [&](int number) { return static_cast<std::uint64_t>(registers[kRegisters[number]]); };
    const std::uint8_t modrm = *at++;
    const int mode = modrm >> 6, low = modrm & 7;
    Memory result{0, 0};
    int base = low + (b ? 8 : 0);
    bool relative = mode == 0 && low == 5;
    if (low == 4) {
      const std::uint8_t sib = *at++;
      const int index = ((sib >> 3) & 7) + (x ? 8 : 0);
      if (index != 4) result.stride = value(index) << (sib >> 6);
      base = (sib & 7) + (b ? 8 : 0);
      if (mode == 0 && (sib & 7) == 5) refuse();  // no base register: nothing here is so addressed
    }
    std::int64_t displacement = 0;
    if (mode == 1) {
      displacement = static_cast<std::int8_t>(*at++);
    } else if (mode == 2 || relative) {
      std::int32_t word;
      std::memcpy(&word, at, sizeof(word));
      displacement = word;
      at += sizeof(word);
    }
    result.base =
        (relative ? reinterpret_cast<std::uint64_t>(at) : value(base)) + static_cast<std::uint64_t>(displacement);
    return result;
  }

  static void configure(const std::uint8_t* bytes) {
    static constexpr std::uint8_t kExpected[64] = {
        1,  0,  0,  0,  0,  0,  0,  0,  0,  0, 0,  0, 0,  0, 0,  0,   // palette, first row
        64, 0,  64, 0,  64, 0,  64, 0,  64, 0, 64, 0, 64, 0, 64, 0,   // bytes of a row
        0,  0,  0,  0,  0,  0,  0,  0,  0,  0, 0,  0, 0,  0, 0,  0,   // of tiles that do not exist
        16, 16, 16, 16, 16, 16, 16, 16, 0,  0, 0,  0, 0,  0, 0,  0};  // rows
    if (std::memcmp(bytes, kExpected, sizeof(kExpected)) != 0) refuse();
    std::memset(state().tiles, 0, sizeof(state().tiles));
    state().configured = true;
  }

  static void multiply(int sum, int left, int right) {
    if (sum == left || left == right || sum == right) refuse();
    kernels::cpu::ModelTiles model;
    model.load<0>(state().tiles[sum], 64);
    model.load<1>(state().tiles[left], 64);
    model.load<2>(state().tiles[right], 64);
    model.add_product<0, 1, 2>();
    model.store<0>(state().tiles[sum], 64);
  }

  static void carry_out(int, siginfo_t*, void* context) {
    enum Prefix { kNone, k66, kF3, kF2 };
    greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    const auto* at = reinterpret_cast<const std::uint8_t*>(registers[REG_RIP]);
    // VEX.128.0F38.W0, of three bytes.
    if (at[0] != 0xc4 || (at[1] & 0x1f) != 2 || (at[2] & 0x84) != 0) refuse();
    const bool r = !(at[1] & 0x80), x = !(at[1] & 0x40), b = !(at[1] & 0x20);
    const int vvvv = (~at[2] >> 3) & 15, prefix = at[2] & 3, opcode = at[3];
    at += 4;
    const int tile = (*at >> 3) & 7;
    const bool registers_alone = *at >> 6 == 3;
    if (r) refuse();
    State& s = state();
    ++s.instructions;
    if (opcode == 0x49 && prefix == kNone && *at == 0xc0) {  // TILERELEASE
      s.configured = false;
      ++at;
    } else if (opcode == 0x49 && prefix == kNone && !registers_alone && tile == 0) {  // LDTILECFG
      const Memory from = memory(at, registers, x, b);
      configure(reinterpret_cast<const std::uint8_t*>(from.base));
    } else if (!s.configured) {
      refuse();
    } else if (opcode == 0x49 && prefix == kF2 && registers_alone && (*at & 7) == 0) {  // TILEZERO
      std::memset(s.tiles[tile], 0, sizeof(s.tiles[tile]));
      ++at;
    } else if (opcode == 0x4b && (prefix == kF2 || prefix == kF3) && !registers_alone && (*at & 7) == 4) {
      const Memory place = memory(at, registers, x, b);
      for (std::uint64_t i = 0; i < 16; ++i) {
        auto* row = reinterpret_cast<void*>(place.base + i * place.stride);
        if (prefix == kF2) std::memcpy(s.tiles[tile][i], row, 64);  // TILELOADD
        else std::memcpy(row, s.tiles[tile][i], 64);                // TILESTORED
      }
    } else if (opcode == 0x5c && prefix == kF3 && registers_alone && vvvv < 8) {  // TDPBF16PS
      multiply(tile, (*at & 7) + (b ? 8 : 0), vvvv);
      ++at;
    } else {
      refuse();
    }
    registers[REG_RIP] = reinterpret_cast<greg_t>(at);
  }

  struct sigaction before_ = {};
};

}  // namespace tapecache::testing
