#include "command_train.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <span>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "held_out.h"
#include "interrupt.h"
#include "metrics_log.h"
#include "pair_batches.h"
#include "process_group.h"
#include "progress.h"
#include "run_settings.h"
#include "step_settings.h"
#include "tapecache/core/device.h"
#include "tapecache/core/error.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/core/random.h"
#include "tapecache/data/batch_order.h"
#include "tapecache/gradcache/grad_cache.h"
#include "tapecache/gradcache/step.h"
#include "tapecache/train/checkpoint.h"
#include "trainee.h"

namespace tapecache::program {

namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

const Clock::time_point program_begin = Clock::now();

constexpr std::int64_t kCheckedPairs = 16, kCheckedChunk = 4;
constexpr std::int64_t kProbedPairs = 64;  // whose tokens tell one tokenizer from another

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

/// A training run: what it trains, where it stands, and its folder `OUT.run`. Of several processes each has one, and
/// the first alone shows and writes.
class Run {
 public:
  Run(TrainOptions options, const ProcessGroup& group) : options_(std::move(options)), group_(group) {
    folder_ = options_.out;
    if (folder_.filename().empty()) folder_ = folder_.parent_path();  // of "OUT/"
    options_.out = folder_;
    folder_ += ".run";
    group_.together([this] {
      check_processes(options_, group_.size());
      if (group_.is_first()) require_new_folders();
      read_pairs();
      prepare();
    });
    describe_run();
  }

  int go() {
    const InterruptGuard interrupt;
    start_or_resume();
    say("ready after {:.1f} s", seconds_since(program_begin));
    if (held_out_ && before_.empty()) before_ = evaluated("before", true);
    MetricsLog::Figures after;
    const Clock::time_point begin = Clock::now();
    std::optional<Progress> progress;
    if (group_.is_first()) progress.emplace("train", steps_, step_);
    int signal = 0;
    while (step_ < steps_ && (signal = signal_to_any(interrupt)) == 0) {
      const Clock::time_point step_begin = Clock::now();
      MetricsLog::Figures figures = step();
      const double seconds = seconds_since(step_begin);
      figures.emplace_back("seconds", seconds);
      log("train", figures);
      if (progress) {
        progress->update(
            step_, fmt::format("loss {:.4f}  {:.0f} pairs/s  {}", figures.front().second,
                               static_cast<double>(batch_) / seconds, bytes_text(Device::cpu().memory_stats().peak)));
      }
      const bool last = step_ == steps_;
      if (held_out_ && (last || (eval_every_ > 0 && step_ % eval_every_ == 0))) {
        if (progress) progress->pause();
        after = evaluated(last ? "after" : fmt::format("step {}", step_), true);
      }
      if (last || (options_.save_every > 0 && step_ % options_.save_every == 0)) save();
    }
    if (progress) progress->pause();
    if (signal != 0) {
      save();
      say("interrupted after {} of {} steps; go on by the same command with --resume", step_, steps_);
      return 128 + signal;
    }
    const double seconds = seconds_since(begin);
    if (held_out_ && after.empty()) after = evaluated("after", false);  // which was logged before the last checkpoint
    group_.on_first([this] { trainee_->with_averages([this] { trainee_->write(options_.out); }); });
    if (held_out_ && group_.is_first()) show(before_, after);
    say("{} written after {} steps in {}, at most {} in use", options_.out.string(), steps_, clock_text(seconds),
        bytes_text(Device::cpu().memory_stats().peak));
    return kDone;
  }

 private:
  template <class... Arguments>
  void say(fmt::format_string<Arguments...> format, Arguments&&... arguments) const {
    if (group_.is_first()) fmt::print(stderr, "{}\n", fmt::format(format, std::forward<Arguments>(arguments)...));
  }

  /// The first process writes it; where it cannot, that is known before the next step.
  void log(const std::string& kind, const MetricsLog::Figures& figures) {
    group_.together([&] {
      if (log_) log_->add(kind, step_, figures);
    });
  }

  /// All end behind the same step.
  int signal_to_any(const InterruptGuard& interrupt) const {
    std::int64_t signal = interrupt.signal();
    group_.take_largest({&signal, 1});
    return static_cast<int>(signal);
  }

  void require_new_folders() const {
    std::error_code error;
    if (std::filesystem::exists(options_.out, error)) {
      throw FileError(fmt::format("{}: is there already, expected the name of a new folder", options_.out.string()));
    }
    if (std::filesystem::exists(folder_, error) && !options_.resume) {
      throw FileError(
          fmt::format("{}: an earlier run is there; go on with it by --resume, or remove it", folder_.string()));
    }
  }

  void read_pairs() {
    training_.emplace(options_.pairs, options_.columns);
    const bool own_file = !options_.eval_pairs.empty();
    const Pairs taken = training_->take_out(
        held_out(training_->anchor_numbers(), own_file ? 0 : options_.eval_share, options_.eval_limit, options_.seed));
    const Pairs held = own_file ? program::read_pairs(options_.eval_pairs, options_.columns) : taken;
    if (training_->size() < 2) {
      throw FileError(fmt::format("{}: leaves {} pairs for training, expected at least 2", options_.pairs.string(),
                                  training_->size()));
    }
    if (held.images != training_->images() && held.size() > 0) {
      throw FileError(fmt::format("{}: has {}, the pairs for training have {}", options_.eval_pairs.string(),
                                  held.images ? "images" : "texts alone",
                                  training_->images() ? "images" : "texts alone"));
    }
    if (held.size() > 0) held_out_.emplace(held);
  }

  void prepare() {
    if (options_.temperature) {
      if (!(*options_.temperature > 0)) {
        throw ValueError(fmt::format("--temperature is {}, expected above 0", *options_.temperature));
      }
      options_.loss.scale = 1 / *options_.temperature;
    }
    options_.loss.name = loss_name(options_.loss, training_->images());
    trainee_.emplace(options_, *training_);
    prefixes_ = options_.prefixes.of(trainee_->model());

    batch_ = std::min(options_.batch, training_->size());
    check_batch(options_, batch_, group_.size());
    order_.emplace(training_->size(), batch_, options_.seed);
    const int loaders = options_.loaders.value_or(std::clamp(thread_count() / 4, 1, 8));
    batches_ = std::make_unique<PairBatches>(*training_, trainee_->model(), prefixes_, trainee_->images(),
                                             LoadingOptions{options_.seed, loaders});
    const double of_epochs = options_.epochs * static_cast<double>(order_->steps_per_epoch());
    steps_ = options_.steps.value_or(std::max<std::int64_t>(1, std::llround(of_epochs)));
    warmup_ = std::llround(options_.warmup < 1 ? options_.warmup * static_cast<double>(steps_) : options_.warmup);
    if (warmup_ > steps_) {
      throw ValueError(fmt::format("--warmup is {} steps, expected at most all {}", warmup_, steps_));
    }
    scheduled_rate(options_.tuning.schedule, 0, warmup_, steps_, options_.rate);
    eval_every_ = options_.eval_every.value_or(order_->steps_per_epoch());

    step_options_ = step_options(options_, group_);
    settings_ = run_settings(options_, *training_, prefixes_);
    settings_.merge(std::map(trainee_->origin()));
    std::vector<std::int64_t> first(static_cast<std::size_t>(std::min(batch_, kProbedPairs)));
    std::iota(first.begin(), first.end(), 0);
    settings_["the tokens of texts"] = fmt::format("fingerprint {:016x}", batches_->fingerprint(first));
    settings_["the steps in all"] = std::to_string(steps_);
    settings_["the searches held out"] =
        held_out_ ? fmt::format("{} of fingerprint {:016x}", held_out_->queries.size(), held_out_->fingerprint())
                  : "none";
  }

  void describe_run() const {
    const models::Pretrained::Info& info = trainee_->model().model().info();
    const auto count = [](const std::vector<Parameter>& parameters) {
      std::int64_t sum = 0;
      for (const Parameter& p : parameters) sum += p.value().numel();
      return sum < 1'000'000 ? std::to_string(sum) : fmt::format("{:.1f} M", static_cast<double>(sum) * 1e-6);
    };
    say("model  {}: {}, {} parameters, {} of them trained; {} numbers a text of at most {} tokens",
        options_.model.folder.string(), info.architecture, count(trainee_->all()), count(trainee_->trained()),
        info.width, trainee_->model().max_tokens());
    for (const std::string& note : info.notes) say("note   {}", note);
    const std::int64_t negatives = training_->hard_negatives(), skipped = training_->skipped();
    say("pairs  {} for training{}, {} held out{}", training_->size(),
        negatives > 0 ? fmt::format(" with {} hard negatives each", negatives) : "",
        held_out_ ? std::to_string(held_out_->queries.size()) + " searches" : "none",
        skipped > 0 ? fmt::format("; {} rows with an empty text passed over", skipped) : "");
    const PairsSource& source = training_->source();
    const std::span columns(source.columns);
    const auto listed = [](std::span<const std::string> names) {
      return fmt::format("'{}'", fmt::join(names, "', '"));
    };
    say("columns {} '{}', {} '{}'{}; {}", training_->images() ? "image" : "anchor", columns[0],
        training_->images() ? "caption" : "positive", columns[1],
        columns.size() > 2 ? fmt::format(", hard negatives {}", listed(columns.subspan(2))) : "",
        source.unused.empty() ? "all are used" : fmt::format("not used: {}", listed(source.unused)));
    if (batch_ < options_.batch) say("note   the batch is all {} pairs, --batch asks for {}", batch_, options_.batch);
    if (!prefixes_.query.empty() || !prefixes_.passage.empty()) {
      say("prefix '{}' for anchors, '{}' for the others", prefixes_.query, prefixes_.passage);
    }
    say("run    {} steps of {} pairs, loss {}, in {}{}", steps_, batch_, options_.loss.name, folder_.string(),
        group_.size() > 1 ? fmt::format(", by {} processes of {} threads", group_.size(), thread_count()) : "");
  }

  std::filesystem::path checkpoint() const { return folder_ / "checkpoint.safetensors"; }

  void start_or_resume() {
    std::error_code error;
    std::int64_t resumes = options_.resume && std::filesystem::exists(checkpoint(), error) ? 1 : 0;
    group_.take_largest({&resumes, 1});
    group_.together([&] {
      if (resumes == 1) resume();
      if (group_.is_first()) log_.emplace(folder_, resumes == 1 ? std::optional(step_) : std::nullopt);
    });
    if (resumes == 1) say("resume after {} of {} steps", step_, steps_);
  }

  void resume() {
    const train::TrainingPosition position =
        train::load_checkpoint(checkpoint(), trainee_->saved(), trainee_->optimizer(), trainee_->averages());
    const auto note = [&](const std::string& name) {
      const auto found = position.notes.find(name);
      Json json = found == position.notes.end() ? Json() : Json::parse(found->second, nullptr, false);
      if (json.is_discarded() || json.is_null()) {
        throw FileError(fmt::format("{}: has no '{}' that can be read", checkpoint().string(), name));
      }
      return json;
    };
    try {
      require_same_settings(note("settings").get<std::map<std::string, std::string>>(), settings_);
      const Json before = note("before");
      for (const auto& [name, value] : before.items()) before_.emplace_back(name, value.get<double>());
      if (position.notes.contains("plan")) step_options_.cut = plan_of(note("plan"));
    } catch (const Json::exception& e) {
      throw FileError(fmt::format("{}: its notes are not those of a run: {}", checkpoint().string(), e.what()));
    }
    step_ = position.step;
  }

  void save() {
    group_.on_first([this] {
      train::TrainingPosition position{step_, options_.seed, {{"settings", Json(settings_).dump()}}};
      Json before = Json::object();
      for (const auto& [name, value] : before_) before[name] = value;
      position.notes["before"] = before.dump();
      if (const auto* plan = std::get_if<gradcache::MemoryPlan>(&step_options_.cut)) {
        position.notes["plan"] = text_of(*plan);
      }
      train::save_checkpoint(checkpoint(), trainee_->saved(), trainee_->optimizer(), position, trainee_->averages());
    });
  }

  Shares shares_of(std::int64_t step) {
    Shares shares{{}, group_.rank()};
    for (int r = 0; r < group_.size(); ++r) {
      shares.counts.push_back(static_cast<std::int64_t>(order_->rows(step, r, group_.size()).size()));
    }
    return shares;
  }

  /// What the next step takes; the images of the one behind it begin to be read.
  PairBatch next_batch() {
    const auto epoch = [this](std::int64_t number) { return static_cast<std::uint32_t>(order_->epoch(number)); };
    PairBatches::Parts parts;
    group_.together([&] {
      parts = batches_->read(order_->rows(step_), shares_of(step_), epoch(step_));
      if (step_ + 1 < steps_) batches_->load_ahead(order_->rows(step_ + 1), shares_of(step_ + 1), epoch(step_ + 1));
    });
    // As if one process had all of it.
    auto tokens = parts.longest();
    group_.take_largest(tokens);
    return batches_->padded(std::move(parts), tokens);
  }

  /// The next step. Throws NumericalError where it cannot be taken.
  MetricsLog::Figures step() {
    const Clock::time_point begin = Clock::now();
    const PairBatch batch = next_batch();
    const double loading_seconds = seconds_since(begin);
    const std::vector<gradcache::Tower> towers = towers_of(batch, trainee_->model(), trainee_->images());
    const gradcache::Loss loss = trainee_->loss().of(batch, prefixes_, options_.model.embed(), group_);
    trainee_->model().model().set_training(true);
    begin_random_step(options_.seed, static_cast<std::uint32_t>(step_));
    if (std::holds_alternative<gradcache::MemoryBudget>(step_options_.cut)) {
      const gradcache::MemoryPlan plan = agreed(gradcache::plan_memory(towers, step_options_), step_options_, group_);
      step_options_.cut = plan;
      say("memory {} at most: chunks of {}, {} kept", bytes_text(plan.bytes), fmt::join(plan.chunk_sizes, " and "),
          plan.kept_chunks);
    }
    if (options_.check_every > 0 && step_ % options_.check_every == 0) check(batch);
    const gradcache::StepResult result = gradcache::cached_step(towers, loss, step_options_);
    if (result.status != gradcache::StepStatus::kDone) {
      throw NumericalError(fmt::format("step {}: {}; nothing was changed by it", step_ + 1, result.message));
    }
    const double rate = scheduled_rate(options_.tuning.schedule, step_, warmup_, steps_, options_.rate);
    const double norm = trainee_->clip_gradient(options_.clip_norm);
    if (!std::isfinite(norm)) throw NumericalError(fmt::format("step {}: the gradient's norm is {}", step_ + 1, norm));
    trainee_->step(rate);
    ++step_;
    return {{"loss", result.loss.item()},
            {"learning_rate", rate},
            {"gradient_norm", norm},
            {"scale", trainee_->loss().scale()},
            {"peak_bytes", static_cast<double>(result.peak_bytes)},
            {"loading_seconds", loading_seconds}};
  }

  /// The cached against the direct gradient, on the first pairs of each process.
  void check(const PairBatch& whole) {
    const PairBatch batch = first_pairs(whole, kCheckedPairs);
    gradcache::StepOptions options = step_options_;
    options.cut = {std::clamp<std::int64_t>(batch.pairs.own() / 2, 1, kCheckedChunk)};
    options.reproducible_segments = options.reproducible_block = 0;
    const double distance = gradcache::compare(towers_of(batch, trainee_->model(), trainee_->images()),
                                               trainee_->loss().of(batch, prefixes_, options_.model.embed(), group_),
                                               options, trainee_->trained())
                                .relative_norm;
    log("check", {{"gradient_distance", distance}});
    if (!(distance <= options_.model.gradient_tolerance())) {
      throw NumericalError(
          fmt::format("step {}: the cached gradient differs from the direct one by {:.1e} of its norm, "
                      "expected at most {:.0e}",
                      step_ + 1, distance, options_.model.gradient_tolerance()));
    }
  }

  MetricsLog::Figures evaluated(const std::string& when, bool logged) {
    MetricsLog::Figures figures = trainee_->with_averages([&] {
      return evaluate(trainee_->model(), trainee_->images(), *held_out_, prefixes_, options_.model.embed(), group_)
          .named();
    });
    std::string line;
    for (const auto& [name, value] : figures) line += fmt::format("  {} {:.4f}", name, value);
    say("{}{}", when, line);
    if (logged) log("eval", figures);
    return figures;
  }

  static void show(const MetricsLog::Figures& before, const MetricsLog::Figures& after) {
    std::size_t width = 10;
    for (const auto& [name, value] : after) width = std::max(width, name.size());
    fmt::print("{:<{}} {:>8} {:>8}\n", "held out", width, "before", "after");
    for (std::size_t i = 0; i < after.size(); ++i) {
      fmt::print("{:<{}} {:>8.4f} {:>8.4f}\n", after[i].first, width, before.at(i).second, after[i].second);
    }
    std::fflush(stdout);
  }

  TrainOptions options_;
  const ProcessGroup& group_;
  std::filesystem::path folder_;
  std::optional<PairsFile> training_;
  std::optional<RetrievalTask> held_out_;
  std::optional<Trainee> trainee_;
  Prefixes prefixes_;
  std::optional<data::BatchOrder> order_;
  std::unique_ptr<PairBatches> batches_;
  gradcache::StepOptions step_options_;
  std::map<std::string, std::string> settings_;
  std::int64_t batch_ = 0, steps_ = 0, warmup_ = 0, eval_every_ = 0, step_ = 0;
  MetricsLog::Figures before_;
  std::optional<MetricsLog> log_;  // of the first process
};

}  // namespace

int run_train(const TrainOptions& options) {
  const ProcessGroup group = ProcessGroup::launched(std::chrono::seconds(options.wait));
  return group.run([&] {
    if (options.processes && *options.processes != group.size()) {
      throw ValueError(fmt::format("--processes is {}, but this process was started as one of {}", *options.processes,
                                   group.size()));
    }
    return Run(options, group).go();
  });
}

}  // namespace tapecache::program
