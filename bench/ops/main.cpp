// How fast each op of the op table runs in f32, forward alone and with backward, and how near that comes to what this
// machine can do: the larger of its arithmetic at the speed of multiplications and additions in registers, and of its
// traffic at the speed of a copy that touches as many bytes.
//
//   bench_ops [--benchmark_…]            measures with Google Benchmark
//   bench_ops --check [FLOORS]           fails where an op is far below its floor (check.h)
//   bench_ops --write-floors [FLOORS]    puts down what this machine reaches, where that is less than the file has

#include <cstdio>
#include <exception>
#include <string>

#include <benchmark/benchmark.h>

#include "check.h"
#include "op_run.h"
#include "tapecache/core/parallel_for.h"

namespace {

using namespace ops_bench;

void measure(benchmark::State& state, const tapecache::testing::OpRow& row, bool backward, const Ceilings& ceilings) {
  const OpRun op = make_run(row, backward);
  std::int64_t runs = 0;
  for (auto _ : state) {
    op.run();
    ++runs;
  }
  const auto rate = [&](double amount) {
    return benchmark::Counter(amount * static_cast<double>(runs), benchmark::Counter::kIsRate);
  };
  if (op.work.flops > 0) state.counters["GFLOP/s"] = rate(op.work.flops * 1e-9);
  state.counters["GB/s"] = rate(op.work.bytes * 1e-9);
  state.counters["% of ceiling"] = rate(op.work.least_seconds(ceilings) * 100);
}

void measure_all(const Ceilings& ceilings) {
  for (const tapecache::testing::OpRow& row : measured_rows()) {
    for (const bool backward : {false, true}) {
      benchmark::RegisterBenchmark(run_name(row, backward).c_str(), measure, row, backward, ceilings)
          ->UseRealTime()
          ->Unit(benchmark::kMicrosecond);
    }
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::string task = argc > 1 ? argv[1] : "";
    const std::string floors = argc > 2 ? argv[2] : TAPECACHE_FLOORS;
    if (task == "--check") return check(floors) ? 0 : 1;
    if (task == "--write-floors") {
      write_floors(floors);
      return 0;
    }
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    Ceilings ceilings;
    ceilings.measure();
    std::fprintf(stderr, "Ceilings with %d threads: %.1f GFLOP/s, %.1f GB/s (copy of 4 MiB)\n",
                 tapecache::thread_count(), ceilings.flops_per_second() * 1e-9,
                 ceilings.bytes_per_second(8 << 20) * 1e-9);
    measure_all(ceilings);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_ops: %s\n", error.what());
    return 1;
  }
}
