// How fast each op of the op table runs in f32, forward alone and with backward, and how near that comes to what this
// machine can do: the larger of its arithmetic at the speed of a 1024³ GEMM and its traffic at the speed of a copy of
// 4 MiB, about the size of the tensors here.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include "op_table.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/ops/matmul.h"

namespace {

using namespace tapecache;
using namespace tapecache::testing;
using Clock = std::chrono::steady_clock;

struct Ceiling {
  double flops_per_second, bytes_per_second;
};

template <class F>
double best_seconds(F f) {
  const auto end = Clock::now() + std::chrono::seconds(1);
  double best = std::numeric_limits<double>::infinity();
  while (Clock::now() < end) {
    const auto begin = Clock::now();
    f();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - begin).count());
  }
  return best;
}

Ceiling measure_ceiling() {
  constexpr std::int64_t kSide = 1024, kFloats = 1 << 20;
  const Variable a = random_tensor({kSide, kSide}, DType::kFloat32, 1);
  const Variable b = random_tensor({kSide, kSide}, DType::kFloat32, 2);
  const double gemm = best_seconds([&] { benchmark::DoNotOptimize(ops::matmul(a, b).value().raw()); });
  const Tensor from = Tensor::full({kFloats}, 1);
  Tensor to = Tensor::zeros({kFloats});
  const double copy = best_seconds([&] { to.copy_from(from); });
  return {2.0 * kSide * kSide * kSide / gemm, 2.0 * static_cast<double>(from.bytes()) / copy};
}

/// Least work of one run: arithmetic, and bytes where each tensor is read or written once.
struct Work {
  double flops, bytes;
};

template <class F>
void measure(benchmark::State& state, const Work& work, const Ceiling& ceiling, F run) {
  const auto begin = Clock::now();
  for (auto _ : state) run();
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count() /
                         static_cast<double>(state.iterations());
  const double ideal = std::max(work.flops / ceiling.flops_per_second, work.bytes / ceiling.bytes_per_second);
  if (work.flops > 0) state.counters["GFLOP/s"] = work.flops / seconds * 1e-9;
  state.counters["GB/s"] = work.bytes / seconds * 1e-9;
  state.counters["% of ceiling"] = ideal / seconds * 100;
}

double bytes_of(const std::vector<Tensor>& tensors) {
  double total = 0;
  for (const Tensor& t : tensors) total += static_cast<double>(t.bytes());
  return total;
}

Work forward_work(const OpRow& row, const std::vector<Tensor>& inputs, const Tensor& output) {
  const double bytes = static_cast<double>(output.bytes());
  return {row.flops, row.reads_all ? bytes_of(inputs) + bytes : 2 * bytes};
}

/// Backward takes the forward's arithmetic twice, reads the cotangent and the inputs, and writes their gradients.
Work total_work(const OpRow& row, const std::vector<Tensor>& inputs, const Tensor& output) {
  const Work forward = forward_work(row, inputs, output);
  const double read = static_cast<double>(output.bytes()) + (row.reads_all ? bytes_of(inputs) : 0);
  return {3 * forward.flops, forward.bytes + read + bytes_of(inputs)};
}

void forward(benchmark::State& state, const OpRow& row, const Ceiling& ceiling) {
  const std::vector<Tensor> inputs = make_inputs(row.large, DType::kFloat32);
  const std::vector<Variable> variables(inputs.begin(), inputs.end());
  const Work work = forward_work(row, inputs, row.op(variables).value());
  measure(state, work, ceiling, [&] { benchmark::DoNotOptimize(row.op(variables).value().raw()); });
}

void forward_backward(benchmark::State& state, const OpRow& row, const Ceiling& ceiling) {
  const std::vector<Tensor> inputs = make_inputs(row.large, DType::kFloat32);
  const Tensor cotangent = [&] {
    const Variable output = row.op(std::vector<Variable>(inputs.begin(), inputs.end()));
    return random_tensor(output.shape(), output.dtype(), 3);
  }();
  measure(state, total_work(row, inputs, cotangent), ceiling, [&] {
    Tape tape;
    std::vector<Variable> variables;
    for (const Tensor& t : inputs) variables.push_back(is_floating(t.dtype()) ? tape.leaf(t) : Variable(t));
    const Recording recording(tape);
    const Variable output = row.op(variables);
    tape.backward(std::span(&output, 1), std::span(&cotangent, 1));
  });
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  const Ceiling ceiling = measure_ceiling();
  std::fprintf(stderr, "Ceilings with %d threads: %.1f GFLOP/s (GEMM of 1024), %.1f GB/s (copy of 4 MiB)\n",
               thread_count(), ceiling.flops_per_second * 1e-9, ceiling.bytes_per_second * 1e-9);
  for (const OpRow& row : op_rows()) {
    if (row.large.empty()) continue;
    for (const bool backward : {false, true}) {
      const std::string name = row.name + (backward ? "/forward+backward" : "/forward");
      benchmark::RegisterBenchmark(name.c_str(), backward ? forward_backward : forward, row, ceiling)
          ->UseRealTime()
          ->Unit(benchmark::kMicrosecond);
    }
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
