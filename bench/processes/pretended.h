#pragma once

#include <cstring>
#include <string>

#include "tapecache/distributed/communicator.h"

namespace bench_processes {

/// A group of ranks of which there is one: what the others would send is what it has itself. So a rank's own work is
/// timed, as it is among so many, without the others.
class Pretended final : public tapecache::distributed::Communicator {
 public:
  explicit Pretended(int size) : Communicator(0, size, std::chrono::milliseconds(0)) {}
  std::string name() const override { return "pretended"; }
  void fail(std::string_view) noexcept override {}

 private:
  using Tensor = tapecache::Tensor;
  using Counts = std::span<const std::int64_t>;

  void do_all_gather(const Tensor& rows, Tensor& all, Counts counts) override {
    std::byte* to = all.mutable_raw();
    for (std::size_t r = 0; r < counts.size(); ++r, to += rows.bytes()) std::memcpy(to, rows.raw(), rows.bytes());
  }
  void do_reduce_scatter(const Tensor& all, Tensor& rows, Counts) override {
    std::memcpy(rows.mutable_raw(), all.raw(), rows.bytes());
  }
  void do_all_reduce(Tensor&, tapecache::distributed::Communicator::Reduction) override {}
  void do_broadcast(Tensor&, int) override {}
  void do_send_receive(const Tensor& sent, int, Tensor& received, int) override {
    std::memcpy(received.mutable_raw(), sent.raw(), received.bytes());
  }
  void do_barrier() override {}
};

}  // namespace bench_processes
