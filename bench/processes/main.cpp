// Training steps of CLIP ViT-B/32, cached 64/16, in processes that an MPI launcher started, each with its share of the
// batch: seconds, and what they send over the least that is possible. Without a launcher one process takes the steps,
// and prints its seconds alone, for `--against` of the others. `./run bench processes` does both.
#include <mpi.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "../train_step/training.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/distributed/mpi.h"

namespace {

std::atomic<std::int64_t> sent_bytes{0}, sent_messages{0};

}  // namespace

// In place of MPI's own, which has another name for this.
extern "C" int MPI_Isend(const void* buffer, int count, MPI_Datatype type, int to, int tag, MPI_Comm group,
                         MPI_Request* request) {
  int size = 0;
  PMPI_Type_size(type, &size);
  sent_bytes += static_cast<std::int64_t>(count) * size;
  ++sent_messages;
  return PMPI_Isend(buffer, count, type, to, tag, group, request);
}

namespace {

using namespace tapecache;
using distributed::Communicator;
using Clock = std::chrono::steady_clock;

/// Counts calls on their way to another communicator.
class Counted final : public Communicator {
 public:
  explicit Counted(Communicator& inner) : Communicator(inner.rank(), inner.size(), inner.limit()), inner_(inner) {}
  std::string name() const override { return inner_.name(); }
  void fail(std::string_view why) noexcept override { inner_.fail(why); }

  /// Of more bytes than go into the messages that ranks agree by.
  int large_gathers = 0, large_reductions = 0, small_calls = 0;

 private:
  static constexpr std::size_t kLarge = 4096;
  void count(int& large, const Tensor& tensor) { ++(tensor.bytes() > kLarge ? large : small_calls); }

  void do_all_gather(const Tensor& rows, Tensor& all, std::span<const std::int64_t> counts) override {
    count(large_gathers, all);
    inner_.all_gather(rows, all, counts);
  }
  void do_reduce_scatter(const Tensor& all, Tensor& rows, std::span<const std::int64_t> counts) override {
    count(large_reductions, all);
    inner_.reduce_scatter(all, rows, counts);
  }
  void do_all_reduce(Tensor& values, distributed::Reduction reduction) override {
    count(large_reductions, values);
    inner_.all_reduce(values, reduction);
  }
  void do_broadcast(Tensor& values, int root) override {
    ++small_calls;
    inner_.broadcast(values, root);
  }
  void do_send_receive(const Tensor& sent, int to, Tensor& received, int from) override {
    ++small_calls;
    inner_.send_receive(sent, to, received, from);
  }
  void do_barrier() override { inner_.barrier(); }

  Communicator& inner_;
};

struct Options {
  std::int64_t batch = 64, chunk = 16, steps = 3;
  int threads = 1;
  double against = 0;
  bool tiny = false;
};

int run(const Options& options) {
  set_thread_count(options.threads);
  const auto world = distributed::mpi_launched() ? distributed::mpi_world() : nullptr;
  std::unique_ptr<Counted> ranks = world ? std::make_unique<Counted>(*world) : nullptr;
  const std::int64_t size = ranks ? ranks->size() : 1, rank = ranks ? ranks->rank() : 0;
  const std::int64_t own = options.batch * (rank + 1) / size - options.batch * rank / size;
  train_step::Setting setting;
  setting.communicator = ranks.get();
  const auto clip_size = options.tiny ? train_step::ClipSize::kTiny : train_step::ClipSize::kBase32;
  train_step::Training training(train_step::make_clip(clip_size, own, options.chunk, setting));

  std::vector<double> seconds;
  std::int64_t bytes = 0, messages = 0;
  for (std::int64_t step = 0; step <= options.steps; ++step) {
    if (ranks) {
      ranks->barrier();
      ranks->large_gathers = ranks->large_reductions = ranks->small_calls = 0;
    }
    bytes = sent_bytes, messages = sent_messages;
    const auto begin = Clock::now();
    training.step();
    if (step > 0) seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());  // one warms up
    bytes = sent_bytes - bytes, messages = sent_messages - messages;
  }
  std::ranges::sort(seconds);
  const double median = seconds[seconds.size() / 2];
  if (!ranks) {
    fmt::print("{:.4f}\n", median);
    return 0;
  }
  std::int64_t numbers = 0;
  for (const Parameter& parameter : training.workload->parameters) numbers += parameter.value().numel();
  const std::int64_t width = train_step::clip_config(clip_size).projection_width;
  // Of a gather each rank sends its rows to all others; of a ring's all-reduce twice all but one of the shares.
  const double least =
      4.0 * static_cast<double>((size - 1) * 2 * own * width) +
      4.0 * 2 * static_cast<double>(numbers) * static_cast<double>(size - 1) / static_cast<double>(size);
  if (rank != 0) return 0;
  fmt::print("CLIP {}, {} pairs in chunks of {}, {} processes of {} threads\n", options.tiny ? "tiny" : "ViT-B/32",
             options.batch, options.chunk, size, options.threads);
  fmt::print("seconds a step        {:.3f}\n", median);
  if (options.against > 0) {
    fmt::print("of one process        {:.3f}, of as many threads; ratio {:.3f}\n", options.against,
               median / options.against);
  }
  fmt::print("bytes a rank sends    {:.1f} MB in {} messages; over the least possible {:.4f}\n",
             static_cast<double>(bytes) * 1e-6, messages, static_cast<double>(bytes) / least);
  fmt::print("calls a step          {} gathers and {} reductions of more than 4 kB, {} small ones\n",
             ranks->large_gathers, ranks->large_reductions, ranks->small_calls);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"Training steps of CLIP ViT-B/32 in several processes"};
  app.add_option("--batch", options.batch, "Pairs of all processes")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  app.add_option("--chunk", options.chunk, "Pairs of a chunk")->check(CLI::Range(1, 1 << 16))->capture_default_str();
  app.add_option("--steps", options.steps, "Steps that are timed, after one that is not")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--threads", options.threads, "Threads of each process")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--against", options.against, "Seconds of one process");
  app.add_flag("--tiny", options.tiny, "A tiny model, to try the program out");
  CLI11_PARSE(app, argc, argv);
  try {
    return run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_processes: {}\n", error.what());
    return 1;
  }
}
