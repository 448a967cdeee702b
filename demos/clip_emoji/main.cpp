#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>

#include <fmt/format.h>

#include "evaluation.h"
#include "options.h"
#include "plots.h"
#include "program/progress.h"
#include "report.h"
#include "results.h"
#include "retrieval.h"
#include "tapecache/core/device.h"
#include "tapecache/core/files.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/data/png.h"
#include "tapecache/distributed/communicator.h"
#include "training.h"

#if defined(TAPECACHE_HAS_MPI)
#include "tapecache/distributed/mpi.h"
#endif

namespace clip_emoji {

namespace {

constexpr double kMiB = 1024.0 * 1024.0;

/// Steps, learning rates and batches that the command line leaves open.
struct Plan {
  std::int64_t steps, steps_large;
  double learning_rate = 1e-3, learning_rate_large = 2e-3;
  std::vector<std::int64_t> memory_batches;

  explicit Plan(const Options& o) : steps(o.quick ? 60 : 800), steps_large(o.quick ? 3 : 80) {
    if (o.steps > 0) steps = o.steps;
    if (o.steps_large > 0) steps_large = o.steps_large;
    for (std::int64_t batch = o.batch; batch < o.batch_large; batch *= o.quick ? 4 : 2) memory_batches.push_back(batch);
    memory_batches.push_back(o.batch_large);
  }
};

/// The processes that mpirun started together; null where there is one alone.
std::unique_ptr<tapecache::distributed::Communicator> processes() {
#if defined(TAPECACHE_HAS_MPI)
  if (tapecache::distributed::mpi_launched()) return tapecache::distributed::mpi_world();
#endif
  return nullptr;
}

/// One process alone shows, evaluates and writes.
bool is_first(const TrainingSetup& setup) { return setup.communicator == nullptr || setup.communicator->rank() == 0; }

void say(const std::string& line) {
  fmt::print("{}\n", line);
  std::fflush(stdout);
}

std::vector<double> in_mebibytes(const std::vector<std::size_t>& bytes) {
  std::vector<double> found;
  for (const std::size_t b : bytes) found.push_back(static_cast<double>(b) / kMiB);
  return found;
}

WayResult run_way(const TrainingSetup& setup, const WaySettings& settings, MetricsLog& metrics,
                  std::unique_ptr<tapecache::models::Clip>& model) {
  TrainedWay trained;
  {
    tapecache::program::Progress progress(settings.name, settings.steps);
    trained = train(setup, settings, [&](const StepRecord& record) {
      const double pairs = static_cast<double>((record.step + 1) * settings.batch);
      progress.update(record.step + 1, fmt::format("loss {:.4f}  {:.0f} pairs/s", record.loss, pairs / record.seconds));
      metrics.append(settings.name, record);
    });
  }
  WayResult result;
  result.name = settings.name;
  result.batch = settings.batch;
  if (settings.method != Method::kDirect) result.chunk = settings.chunk;
  result.records = std::move(trained.records);
  result.peak_bytes = std::ranges::max(trained.peak_bytes);
  if (trained.peak_bytes.size() > 1) result.peak_bytes_by_process = trained.peak_bytes;
  result.seconds = trained.seconds;
  const Evaluation evaluation = evaluate(*trained.model, setup);
  result.recall_text_to_image = evaluation.recall_text_to_image;
  result.recall_image_to_text = evaluation.recall_image_to_text;
  result.linear_probe_accuracy = evaluation.linear_probe_accuracy;
  model = std::move(trained.model);

  const auto difference = result.max_relative_gradient_difference();
  say(fmt::format(
      "{:<16} loss {:.3f} -> {:.3f}   recall@10 {:.1f} % / {:.1f} %   probe {:.1f} %   peak {:.1f} MiB   "
      "{:.0f} pairs/s{}",
      result.name, result.records.front().loss, result.records.back().loss, 100 * result.recall_text_to_image.at(10),
      100 * result.recall_image_to_text.at(10), 100 * result.linear_probe_accuracy,
      fmt::join(in_mebibytes(trained.peak_bytes), " + "), result.pairs_per_second(),
      difference ? fmt::format("   gradient differs by {:.1e}", *difference) : ""));
  return result;
}

/// The message of the OutOfMemory that direct training at the large batch ends with; empty where it fits.
std::string direct_large_error(const TrainingSetup& setup, std::int64_t batch) {
  try {
    measure_peak(setup, Method::kDirect, batch, 0);
    return "";
  } catch (const tapecache::OutOfMemory& e) {
    return e.what();
  }
}

std::vector<MemoryPoint> measure_memory(const TrainingSetup& setup, const Options& options, const Plan& plan) {
  std::vector<MemoryPoint> points;
  for (std::int64_t batch : plan.memory_batches) {
    points.push_back({batch, measure_peak(setup, Method::kDirect, batch, 0),
                      measure_peak(setup, Method::kCached, batch, options.chunk)});
  }
  return points;
}

std::vector<WaySettings> ways_of(const Options& o, const Plan& plan) {
  const auto way = [&](const char* name, Method method, bool large, bool compare) {
    WaySettings settings;
    settings.name = name;
    settings.method = method;
    settings.batch = large ? o.batch_large : o.batch;
    settings.chunk = o.chunk;
    settings.steps = large ? plan.steps_large : plan.steps;
    settings.learning_rate = large ? plan.learning_rate_large : plan.learning_rate;
    settings.compare_with_direct = compare;
    return settings;
  };
  return {way("direct", Method::kDirect, false, false), way("gradcache", Method::kCached, false, true),
          way("accumulation", Method::kAccumulated, false, true), way("gradcache_large", Method::kCached, true, false)};
}

/// Of all but the first process, which shows and writes: the same training.
void train_along(const TrainingSetup& setup, const Options& options, const Plan& plan) {
  const tapecache::MemoryLimit limit(static_cast<std::size_t>(options.memory_limit_mib) << 20);
  for (const WaySettings& way : ways_of(options, plan)) train(setup, way, [](const StepRecord&) {});
}

void check_options(const Options& options, const Dataset& data) {
  const auto train = static_cast<std::int64_t>(data.train.size());
  for (std::int64_t batch : {options.batch, options.batch_large}) {
    if (batch > train) {
      throw tapecache::ValueError(fmt::format("batch: {} pairs, but there are {} to train with", batch, train));
    }
  }
  if (options.batch_large <= options.batch) {
    throw tapecache::ValueError(fmt::format("batch: the large batch is {}, expected above the small one, {}",
                                            options.batch_large, options.batch));
  }
}

std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

void write_results(const Options& options, const Results& results, const std::vector<RetrievalRow>& rows,
                   MetricsLog& metrics) {
  const std::filesystem::path picture = options.out / "retrieval.png";
  tapecache::data::write_png(picture, draw_retrieval(rows, large_pictures(options.paths, 72)));
  tapecache::write_file_atomically(options.out / "report.html", report_html(results, read_file(picture)));
  metrics.finish();
  tapecache::write_file_atomically(options.out / "summary.json", summary_json(results));
  say(fmt::format("\nwrote summary.json, metrics.jsonl, report.html and retrieval.png to {}", options.out.string()));
}

/// Trains every way within the memory limit, into `results`. The rows are those of the cached way.
std::vector<RetrievalRow> run_ways(const TrainingSetup& setup, const Options& options, const Plan& plan,
                                   MetricsLog& metrics, Results& results) {
  const Dataset& data = *setup.data;
  const tapecache::MemoryLimit limit(results.memory_limit_bytes);
  results.direct_large_error = direct_large_error(setup, options.batch_large);
  say(fmt::format("direct at batch {}: {}", options.batch_large,
                  results.direct_large_error.empty() ? "fits under the limit" : results.direct_large_error));
  std::vector<RetrievalRow> rows;
  for (const WaySettings& way : ways_of(options, plan)) {
    std::unique_ptr<tapecache::models::Clip> model;
    results.ways.push_back(run_way(setup, way, metrics, model));
    if (way.name == "direct") {
      const std::span<const std::int64_t> batch(data.train.data(), static_cast<std::size_t>(options.batch));
      const tapecache::Tensor scores = logits(*model, setup, batch).to(tapecache::DType::kFloat32);
      results.logits_size = options.batch;
      results.logits = scores.to_vector<float>();
    }
    if (way.name == "gradcache") {
      const Evaluation evaluation = evaluate(*model, setup);
      rows = retrieve(data, evaluation.texts, evaluation.images, 12, 5);
    }
  }
  return rows;
}

int run(const Options& options) {
  require_gnuplot();
  if (options.threads > 0) tapecache::set_thread_count(options.threads);
  const Plan plan(options);
  const auto communicator = processes();
  const TrainingSetup setup{load_dataset(options.paths, options.seed), options.seed, options.dtype, communicator.get()};
  const Dataset& data = *setup.data;
  check_options(options, data);
  if (!is_first(setup)) {
    train_along(setup, options, plan);
    return 0;
  }
  say(fmt::format("{} pairs to train with, {} held out; recall@10 by chance {:.1f} %, most frequent group {:.1f} %",
                  data.train.size(), data.held_out.size(), 1000.0 / static_cast<double>(data.held_out.size()),
                  100 * majority_class_accuracy(data)));

  Results results;
  results.pairs_train = static_cast<std::int64_t>(data.train.size());
  results.pairs_held_out = static_cast<std::int64_t>(data.held_out.size());
  results.majority_class_accuracy = majority_class_accuracy(data);
  results.memory_limit_bytes = static_cast<std::size_t>(options.memory_limit_mib) << 20;
  results.dtype = options.dtype == tapecache::DType::kFloat64 ? "f64" : "f32";
  results.seed = options.seed;
  results.threads = tapecache::thread_count();

  MetricsLog metrics(options.out / "metrics.jsonl");
  const std::vector<RetrievalRow> rows = run_ways(setup, options, plan, metrics, results);
  results.memory = measure_memory(setup, options, plan);
  write_results(options, results, rows, metrics);

  bool all_hold = true;
  for (const auto& [claim, holds] : check_claims(results)) {
    say(fmt::format("{:<26} {}", claim, holds ? "yes" : "NO"));
    all_hold = all_hold && holds;
  }
  return all_hold ? 0 : 1;
}

}  // namespace

}  // namespace clip_emoji

int main(int argc, char** argv) {
  const clip_emoji::ParsedOptions parsed = clip_emoji::parse_options(argc, argv);
  if (parsed.exit_code) return *parsed.exit_code;
  try {
    return clip_emoji::run(parsed.options);
  } catch (const std::exception& e) {
    fmt::print(stderr, "clip_emoji: {}\n", e.what());
    return 1;
  }
}
