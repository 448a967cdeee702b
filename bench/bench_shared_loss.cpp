// Memory and seconds of one rank's part in a shared CLIP loss, with the other ranks simulated, against one process that
// takes the same loss in tiles: representations, their gradients and the loss. `./run bench shared_loss`
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "tapecache/autograd/tape.h"
#include "tapecache/core/device.h"
#include "tapecache/distributed/communicator.h"
#include "tapecache/losses/losses.h"

namespace {

using namespace tapecache;
using distributed::Communicator;

/// One rank of several that are alike: what the others would bring is what this one brings.
class OneOfMany final : public Communicator {
 public:
  OneOfMany(int rank, int size) : Communicator(rank, size, std::chrono::milliseconds(0)) {}
  std::string name() const override { return "one of many"; }
  void fail(std::string_view) noexcept override {}

  std::size_t bytes = 0;  // sent by this rank, where gathers and sums go around

 private:
  std::size_t of_others(const Tensor& all) const {
    return all.bytes() / static_cast<std::size_t>(size()) * static_cast<std::size_t>(size() - 1);
  }
  void do_all_gather(const Tensor& rows, Tensor& all, std::span<const std::int64_t>) override {
    bytes += of_others(all);
    std::byte* to = all.mutable_raw();
    for (int r = 0; r < size(); ++r, to += rows.bytes()) std::memcpy(to, rows.raw(), rows.bytes());
  }
  void do_reduce_scatter(const Tensor& all, Tensor& rows, std::span<const std::int64_t>) override {
    bytes += of_others(all);
    std::memcpy(rows.mutable_raw(), all.raw() + rows.bytes() * static_cast<std::size_t>(rank()), rows.bytes());
  }
  void do_all_reduce(Tensor& values, distributed::Communicator::Reduction) override { bytes += 2 * of_others(values); }
  void do_broadcast(Tensor& values, int) override { bytes += values.bytes(); }
  void do_send_receive(const Tensor& sent, int, Tensor& received, int) override {
    bytes += sent.bytes();
    std::memcpy(received.mutable_raw(), sent.raw(), std::min(sent.bytes(), received.bytes()));
  }
  void do_barrier() override {}
};

Tensor unit_rows(std::int64_t rows, std::int64_t width, std::uint32_t seed) {
  Tensor x = Tensor::empty({rows, width});
  auto* const to = x.mutable_data<float>();
  const float length = 1 / std::sqrt(static_cast<float>(width) / 3);
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    seed = seed * 1664525u + 1013904223u;
    to[i] = (static_cast<float>(seed >> 8) * 0x1p-23f - 1) * length;
  }
  return x;
}

/// Forward and backward of so many own pairs.
void measure(const std::string& what, std::int64_t rows, std::int64_t width, OneOfMany* ranks,
             losses::SharedCandidates candidates) {
  Device::cpu().release_memory_cache();
  Device::cpu().reset_memory_peak();
  const auto begin = std::chrono::steady_clock::now();
  {
    Tape tape;
    const Variable images = tape.leaf(unit_rows(rows, width, 1)), texts = tape.leaf(unit_rows(rows, width, 2));
    Variable loss;
    {
      const Recording recording(tape);
      loss = losses::clip_loss(
          images, texts, {.scale = 20, .tiles = ops::TileOptions{}, .communicator = ranks, .candidates = candidates});
    }
    tape.backward(loss);
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  fmt::print("{:<28} {:>8} own pairs  peak {:>8.1f} MiB  {:>7.1f} s  sent {:>7.1f} MiB\n", what, rows,
             static_cast<double>(Device::cpu().memory_stats().peak) / (1 << 20), seconds.count(),
             ranks ? static_cast<double>(ranks->bytes) / (1 << 20) : 0.0);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  std::int64_t pairs = 16384, width = 512;
  int size = 8;
  std::string only;
  CLI::App app("Memory of a rank in a shared CLIP loss, the others simulated, against one process.");
  app.add_option("--pairs", pairs, "pairs of all ranks")->check(CLI::PositiveNumber);
  app.add_option("--width", width, "of representations")->check(CLI::PositiveNumber);
  app.add_option("--ranks", size, "number of ranks")->check(CLI::PositiveNumber);
  app.add_option("--only", only, "one of them alone")->check(CLI::IsMember({"one", "gathered", "ring"}));
  CLI11_PARSE(app, argc, argv);
  const auto wanted = [&](const char* name) { return only.empty() || only == name; };
  using losses::SharedCandidates;
  if (wanted("one")) measure("one process", pairs, width, nullptr, SharedCandidates::kAutomatic);
  for (const auto& [name, candidates] :
       {std::pair("gathered", SharedCandidates::kGathered), std::pair("ring", SharedCandidates::kRing)}) {
    if (!wanted(name)) continue;
    OneOfMany ranks(size / 2, size);
    measure(fmt::format("one rank of {}, {}", size, name), pairs / size, width, &ranks, candidates);
  }
}
