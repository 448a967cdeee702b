#pragma once

#include <chrono>
#include <cstdint>
#include <thread>

#include "tapecache/distributed/communicator.h"

namespace processes {

using tapecache::Tensor;
using tapecache::distributed::Communicator;
using Reduction = tapecache::distributed::Communicator::Reduction;

/// A link that each rank has to the others: calls take what they would over it, and beside that what they take here.
struct Link {
  double bytes_per_second = 0;    ///< each way; 0: as fast as it is
  double latency = 0;             ///< seconds of a message
  bool carries_gradients = true;  ///< if not, they are not added, which takes no time
};

/// Counts calls on their way to another communicator, and makes them as slow as a link.
class Wrapped final : public Communicator {
 public:
  explicit Wrapped(Communicator& inner) : Communicator(inner.rank(), inner.size(), inner.limit()), inner_(inner) {}
  std::string name() const override { return inner_.name(); }
  void fail(std::string_view why) noexcept override { inner_.fail(why); }

  Link link;
  /// Of more bytes than go into the messages that ranks agree by.
  int large_gathers = 0, large_reductions = 0, small_calls = 0;
  /// When the last large all-reduce ended. Written by the thread that makes the calls, and read when it has ended.
  std::chrono::steady_clock::time_point reduced_at;

 private:
  static constexpr std::size_t kLarge = 4096;
  static bool is_large(const Tensor& tensor) { return tensor.bytes() > kLarge; }
  void count(int& large, const Tensor& tensor) { ++(is_large(tensor) ? large : small_calls); }

  /// Of `messages` one after the other, with so many bytes in all.
  void travel(double messages, double bytes) const {
    if (link.bytes_per_second == 0) return;
    std::this_thread::sleep_for(std::chrono::duration<double>(messages * link.latency + bytes / link.bytes_per_second));
  }
  /// Of rings, in which each rank sends all but one of the shares.
  void travel_round(double rounds, const Tensor& all) const {
    const double others = size() - 1;
    travel(rounds * others, rounds * static_cast<double>(all.bytes()) * others / size());
  }

  void do_all_gather(const Tensor& rows, Tensor& all, std::span<const std::int64_t> counts) override {
    count(large_gathers, all);
    inner_.all_gather(rows, all, counts);
    travel_round(1, all);
  }
  void do_reduce_scatter(const Tensor& all, Tensor& rows, std::span<const std::int64_t> counts) override {
    count(large_reductions, all);
    inner_.reduce_scatter(all, rows, counts);
    travel_round(1, all);
  }
  void do_all_reduce(Tensor& values, Reduction reduction) override {
    count(large_reductions, values);
    if (!link.carries_gradients && is_large(values)) return;
    inner_.all_reduce(values, reduction);
    travel_round(2, values);
    if (is_large(values)) reduced_at = std::chrono::steady_clock::now();
  }
  void do_broadcast(Tensor& values, int root) override {
    ++small_calls;
    inner_.broadcast(values, root);
    travel(1, static_cast<double>(values.bytes()));
  }
  void do_send_receive(const Tensor& sent, int to, Tensor& received, int from) override {
    ++small_calls;
    inner_.send_receive(sent, to, received, from);
    travel(1, static_cast<double>(sent.bytes()));
  }
  void do_barrier() override { inner_.barrier(); }

  Communicator& inner_;
};

}  // namespace processes
