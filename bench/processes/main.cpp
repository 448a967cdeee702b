// Training steps of CLIP ViT-B/32, cached 64/16, in processes that an MPI launcher started, each with its share of the
// batch: seconds, and what they send over the least that is possible. Without a launcher one process takes the steps,
// and prints its seconds alone, for `--against` of the others. With `--link` calls take as long as over a link of that
// speed, and what is measured is how much of the gradients' journey backward hides. `./run bench processes` does all.
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
#include "wrapped.h"

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
using processes::Wrapped;
using Clock = std::chrono::steady_clock;

struct Options {
  std::int64_t batch = 64, chunk = 16, steps = 3;
  int threads = 1;
  double against = 0, link = 0, latency = 50;
  bool tiny = false;
};

train_step::ClipSize clip_size(const Options& options) {
  return options.tiny ? train_step::ClipSize::kTiny : train_step::ClipSize::kBase32;
}

train_step::Training make_training(const Options& options, const train_step::Setting& setting) {
  const std::int64_t size = setting.communicator ? setting.communicator->size() : 1;
  const std::int64_t rank = setting.communicator ? setting.communicator->rank() : 0;
  const std::int64_t own = options.batch * (rank + 1) / size - options.batch * rank / size;
  return train_step::Training(train_step::make_clip(clip_size(options), own, options.chunk, setting));
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

double seconds_of_step(train_step::Training& training) {
  const auto begin = Clock::now();
  training.step();
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

void describe(const Options& options, const Wrapped& ranks) {
  fmt::print("CLIP {}, {} pairs in chunks of {}, {} processes of {} threads\n", options.tiny ? "tiny" : "ViT-B/32",
             options.batch, options.chunk, ranks.size(), options.threads);
}

/// How much of what gradients take over a link is hidden behind backward: of steps with them, in turn, beside it and
/// after it, the seconds from the end of backward until all are added. What else both sides do costs time too, so that
/// it prints seconds of whole steps as well, and of some without gradients' journey.
void measure_link(const Options& options, Wrapped& ranks) {
  gradcache::ReductionOptions reduction;
  Clock::time_point backward_ended;
  train_step::Setting setting;
  setting.communicator = &ranks;
  setting.reduction = &reduction;
  setting.observer = [&](const gradcache::Progress& progress) {
    if (progress.phase == gradcache::Progress::Phase::kBackward) backward_ended = Clock::now();
  };
  train_step::Training training = make_training(options, setting);
  struct Seconds {
    std::vector<double> step, seen;
  };
  Seconds without, after, beside;
  const processes::Link link{options.link * 1e6 / 8, options.latency * 1e-6};
  for (std::int64_t step = 0; step <= options.steps; ++step) {
    const auto take = [&](Seconds& seconds, bool carries_gradients, bool overlap) {
      ranks.link = link;
      ranks.link.carries_gradients = carries_gradients;
      reduction.overlap = overlap;
      ranks.barrier();
      const double taken = seconds_of_step(training);
      if (step == 0) return;  // it warms up
      seconds.step.push_back(taken);
      seconds.seen.push_back(std::chrono::duration<double>(ranks.reduced_at - backward_ended).count());
    };
    take(without, false, true);
    take(after, true, false);
    take(beside, true, true);
  }
  if (ranks.rank() != 0) return;
  describe(options, ranks);
  fmt::print("link                  {:.0f} Mbit/s, {:.0f} µs a message\n", options.link, options.latency);
  fmt::print("seconds a step        {:.3f} without gradients' journey, {:.3f} with it after backward, {:.3f} beside\n",
             median(without.step), median(after.step), median(beside.step));
  const double whole = median(after.seen), seen = std::max(0.0, median(beside.seen));
  fmt::print("gradients' journey    {:.3f} s when it is after backward, {:.3f} s of it when it is beside\n", whole,
             seen);
  fmt::print("hidden                {:.3f}\n", 1 - seen / whole);
}

int run(const Options& options) {
  set_thread_count(options.threads);
  const auto world = distributed::mpi_launched() ? distributed::mpi_world() : nullptr;
  const std::unique_ptr<Wrapped> ranks = world ? std::make_unique<Wrapped>(*world) : nullptr;
  if (options.link > 0) {
    if (!ranks || ranks->size() < 2) throw std::runtime_error("--link is for several processes");
    measure_link(options, *ranks);
    return 0;
  }
  train_step::Setting setting;
  setting.communicator = ranks.get();
  train_step::Training training = make_training(options, setting);

  std::vector<double> seconds;
  std::int64_t bytes = 0, messages = 0;
  for (std::int64_t step = 0; step <= options.steps; ++step) {
    if (ranks) {
      ranks->barrier();
      ranks->large_gathers = ranks->large_reductions = ranks->small_calls = 0;
    }
    bytes = sent_bytes, messages = sent_messages;
    const double taken = seconds_of_step(training);
    if (step > 0) seconds.push_back(taken);  // one warms up
    bytes = sent_bytes - bytes, messages = sent_messages - messages;
  }
  if (!ranks) {
    fmt::print("{:.4f}\n", median(seconds));
    return 0;
  }
  if (ranks->rank() != 0) return 0;
  std::int64_t numbers = 0;
  for (const Parameter& parameter : training.workload->parameters) numbers += parameter.value().numel();
  const std::int64_t width = train_step::clip_config(clip_size(options)).projection_width;
  const std::int64_t size = ranks->size(), own = options.batch / size;
  // Of a gather each rank sends its rows to all others; of a ring's all-reduce twice all but one of the shares.
  const double least =
      4.0 * static_cast<double>((size - 1) * 2 * own * width) +
      4.0 * 2 * static_cast<double>(numbers) * static_cast<double>(size - 1) / static_cast<double>(size);
  describe(options, *ranks);
  fmt::print("seconds a step        {:.3f}\n", median(seconds));
  if (options.against > 0) {
    fmt::print("of one process        {:.3f}, of as many threads; ratio {:.3f}\n", options.against,
               median(seconds) / options.against);
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
  app.add_option("--link", options.link, "Mbit/s of a link that calls are as slow as")->check(CLI::PositiveNumber);
  app.add_option("--latency", options.latency, "Microseconds of a message over it")->capture_default_str();
  app.add_flag("--tiny", options.tiny, "A tiny model, to try the program out");
  CLI11_PARSE(app, argc, argv);
  try {
    return run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_processes: {}\n", error.what());
    return 1;
  }
}
