// What a message costs between processes that an MPI launcher started, for `cost_model.py`: seconds of an all_reduce of
// 8 bytes, and of one of many. Rank 0 prints JSON.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "../timing.h"
#include "tapecache/distributed/mpi.h"

namespace {

using namespace tapecache;
using Clock = std::chrono::steady_clock;

double seconds_of(distributed::Communicator& ranks, std::int64_t numbers, int times) {
  Tensor values = Tensor::zeros({numbers});
  std::vector<double> seconds;
  for (int i = 0; i < times; ++i) {
    ranks.barrier();
    const auto begin = Clock::now();
    ranks.all_reduce(values);
    seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  return Timings::median(seconds);
}

}  // namespace

int main() {
  try {
    const auto ranks = distributed::mpi_world();
    const double small = seconds_of(*ranks, 2, 500), large = seconds_of(*ranks, 16 << 20, 5);
    if (ranks->rank() == 0) {
      const nlohmann::ordered_json report{
          {"ranks", ranks->size()}, {"small_seconds", small}, {"large_bytes", 64 << 20}, {"large_seconds", large}};
      fmt::print("{}\n", report.dump(2));
    }
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_link: {}\n", error.what());
    return 1;
  }
}
