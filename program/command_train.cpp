#include "command_train.h"

#include <fnmatch.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <type_traits>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "held_out.h"
#include "interrupt.h"
#include "metrics_log.h"
#include "pair_batches.h"
#include "progress.h"
#include "run_settings.h"
#include "tapecache/core/device.h"
#include "tapecache/core/error.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/core/random.h"
#include "tapecache/data/batch_order.h"
#include "tapecache/gradcache/grad_cache.h"
#include "tapecache/gradcache/step.h"
#include "tapecache/train/checkpoint.h"
#include "tapecache/train/optimizer.h"

namespace tapecache::program {

namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

const Clock::time_point program_begin = Clock::now();

constexpr std::int64_t kDefaultChunkTokens = 4096;
constexpr std::int64_t kDefaultImages = 32;  // of a chunk
constexpr std::int64_t kCheckedPairs = 16, kCheckedChunk = 4;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

template <class... Arguments>
void say(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  fmt::print(stderr, "{}\n", fmt::format(format, std::forward<Arguments>(arguments)...));
}

Json to_json(const gradcache::MemoryPlan& plan) {
  return {{"chunk_sizes", plan.chunk_sizes},
          {"kept_chunks", plan.kept_chunks},
          {"chunk_tokens", plan.chunk_tokens},
          {"bytes", plan.bytes}};
}
gradcache::MemoryPlan plan_of(const Json& json) {
  return {json.at("chunk_sizes").get<std::vector<std::int64_t>>(), json.at("kept_chunks").get<std::int64_t>(),
          json.at("chunk_tokens").get<std::int64_t>(), json.at("bytes").get<std::size_t>()};
}

/// A training run: what it trains, where it stands, and its folder `OUT.run`.
class Run {
 public:
  explicit Run(TrainOptions options) : options_(std::move(options)), folder_(options_.out) {
    if (folder_.filename().empty()) folder_ = folder_.parent_path();  // of "OUT/"
    options_.out = folder_;
    folder_ += ".run";
    read_pairs_and_model();
    freeze();
    prepare();
  }

  int go() {
    const InterruptGuard interrupt;
    start_or_resume();
    say("ready after {:.1f} s", seconds_since(program_begin));
    if (held_out_ && before_.empty()) before_ = evaluated("before", true);
    MetricsLog::Figures after;
    const Clock::time_point begin = Clock::now();
    Progress progress("train", steps_, step_);
    while (step_ < steps_ && interrupt.signal() == 0) {
      const Clock::time_point step_begin = Clock::now();
      MetricsLog::Figures figures = step();
      const double seconds = seconds_since(step_begin);
      figures.emplace_back("seconds", seconds);
      const double rate = static_cast<double>(batch_) / seconds;
      log_->add("train", step_, figures);
      progress.update(step_, fmt::format("loss {:.4f}  {:.0f} pairs/s  {}", figures.front().second, rate,
                                         bytes_text(memory_stats().peak)));
      const bool last = step_ == steps_;
      if (held_out_ && (last || (eval_every_ > 0 && step_ % eval_every_ == 0))) {
        progress.pause();
        after = evaluated(last ? "after" : fmt::format("step {}", step_), true);
      }
      if (last || (options_.save_every > 0 && step_ % options_.save_every == 0)) save();
    }
    progress.pause();
    if (interrupt.signal() != 0) {
      save();
      say("interrupted after {} of {} steps; go on by the same command with --resume", step_, steps_);
      return 128 + interrupt.signal();
    }
    const double seconds = seconds_since(begin);
    if (held_out_ && after.empty()) after = evaluated("after", false);  // which was logged before the last checkpoint
    with_averages([&] { write_model(); });
    if (held_out_) show(before_, after);
    say("{} written after {} steps in {}, at most {} in use", options_.out.string(), steps_, clock_text(seconds),
        bytes_text(memory_stats().peak));
    return kDone;
  }

 private:
  /// What is measured and written are the averages, where there are any.
  template <class Function>
  std::invoke_result_t<Function> with_averages(const Function& function) const {
    if (!ema_) return function();
    const train::Ema::Scope scope = ema_->use();
    return function();
  }

  std::span<const Buffer> averages() const { return ema_ ? std::span(ema_->state()) : std::span<const Buffer>(); }

  void write_model() const {
    if (adapter_ && !options_.tuning.merge) {
      write_adapter(options_.out, folder_ / "adapter", *adapter_, model_->base());
      return;
    }
    if (adapter_) adapter_->merge();
    models::save_pretrained(options_.out, model_->model());
    if (adapter_) adapter_->unmerge();
  }

  void read_pairs_and_model() {
    std::error_code error;
    if (std::filesystem::exists(options_.out, error)) {
      throw FileError(fmt::format("{}: is there already, expected the name of a new folder", options_.out.string()));
    }
    if (std::filesystem::exists(folder_, error) && !options_.resume) {
      throw FileError(
          fmt::format("{}: an earlier run is there; go on with it by --resume, or remove it", folder_.string()));
    }
    training_ = read_pairs(options_.pairs, options_.columns);
    Pairs held;
    if (!options_.eval_pairs.empty()) {
      held = read_pairs(options_.eval_pairs, options_.columns);
    } else if (options_.eval_share > 0) {
      std::tie(training_, held) = held_out(training_, options_.eval_share, options_.eval_limit, options_.seed);
    }
    if (held.size() > 0) held_out_.emplace(held);
    if (training_.size() < 2) {
      throw FileError(fmt::format("{}: leaves {} pairs for training, expected at least 2", options_.pairs.string(),
                                  training_.size()));
    }
    model_ =
        std::make_unique<TextModel>(options_.model.folder, TextModelOptions{.max_tokens = options_.model.max_tokens,
                                                                            .dropout = options_.dropout,
                                                                            .seed = options_.seed,
                                                                            .base = options_.model.base,
                                                                            .checkpoint = options_.checkpointing,
                                                                            .merge = false});
    adapter_ = adapter_of(*model_, options_.tuning);
    prefixes_ = options_.prefixes.of(*model_);
    options_.loss.name = loss_name(options_.loss, training_);
    if (held.images != training_.images && held.size() > 0) {
      throw FileError(fmt::format("{}: has {}, the pairs for training have {}", options_.eval_pairs.string(),
                                  held.images ? "images" : "texts alone", training_.images ? "images" : "texts alone"));
    }
    if (training_.images) {
      images_ = std::make_unique<ImageEncoder>(model_->base(), model_->model(), options_.model.images);
    }
  }

  /// By the patterns; each must match something.
  void freeze() {
    for (const std::string& pattern : options_.freeze) {
      bool matched = false;
      for (Parameter parameter : model_->model().parameters()) {
        if (::fnmatch(pattern.c_str(), parameter.name().c_str(), 0) != 0) continue;
        parameter.set_requires_gradient(false);
        matched = true;
      }
      if (!matched) {
        throw ValueError(fmt::format("--freeze '{}' matches no parameter; they are called like '{}' ({} lists all)",
                                     pattern, model_->model().parameters().front().name(), "tapecache inspect"));
      }
    }
  }

  void prepare() {
    if (options_.temperature) {
      if (!(*options_.temperature > 0)) {
        throw ValueError(fmt::format("--temperature is {}, expected above 0", *options_.temperature));
      }
      options_.loss.scale = 1 / *options_.temperature;
    }
    loss_ = std::make_unique<TrainingLoss>(options_.loss, *model_, training_.hard_negatives);
    all_ = model_->model().parameters();
    all_.insert(all_.end(), loss_->parameters().begin(), loss_->parameters().end());
    std::ranges::copy_if(all_, std::back_inserter(trained_), [](const Parameter& p) { return p.requires_gradient(); });
    const train::AdamWOptions adamw{.weight_decay = options_.weight_decay,
                                    .groups = parse_groups(options_.tuning.groups, options_.rate),
                                    .layer_decay = options_.tuning.layer_decay};
    optimizer_ = std::make_unique<train::AdamW>(trained_, adamw);
    if (options_.tuning.ema) ema_.emplace(trained_, train::EmaOptions{.decay = *options_.tuning.ema});
    if (adapter_) saved_ = trained_;  // the rest is the base model's, and stays as it is
    else saved_ = all_;

    batch_ = std::min(options_.batch, training_.size());
    order_ = std::make_unique<data::BatchOrder>(training_.size(), batch_, options_.seed);
    const int loaders = options_.loaders.value_or(std::clamp(thread_count() / 4, 1, 8));
    batches_ = std::make_unique<PairBatches>(training_, *model_, prefixes_, images_.get(),
                                             LoadingOptions{options_.seed, loaders});
    const double of_epochs = options_.epochs * static_cast<double>(order_->steps_per_epoch());
    steps_ = options_.steps.value_or(std::max<std::int64_t>(1, std::llround(of_epochs)));
    warmup_ = std::llround(options_.warmup < 1 ? options_.warmup * static_cast<double>(steps_) : options_.warmup);
    if (warmup_ > steps_) {
      throw ValueError(fmt::format("--warmup is {} steps, expected at most all {}", warmup_, steps_));
    }
    scheduled_rate(options_.tuning.schedule, 0, warmup_, steps_, options_.rate);
    eval_every_ = options_.eval_every.value_or(order_->steps_per_epoch());

    step_options_.autocast = options_.model.autocast();
    if (options_.memory) {
      step_options_.cut = gradcache::MemoryBudget{*options_.memory, options_.chunk_tokens.value_or(0)};
    } else if (options_.chunk) {
      step_options_.cut = {*options_.chunk};
    } else {
      step_options_.cut = gradcache::ChunkTokens{options_.chunk_tokens.value_or(kDefaultChunkTokens), {kDefaultImages}};
    }
    settings_ = run_settings(options_, training_, prefixes_);
    settings_["the number of steps"] = std::to_string(steps_);
    describe_run();
  }

  void describe_run() const {
    const models::PretrainedInfo& info = model_->model().info();
    const auto count = [](const std::vector<Parameter>& parameters) {
      std::int64_t sum = 0;
      for (const Parameter& p : parameters) sum += p.value().numel();
      return sum < 1'000'000 ? std::to_string(sum) : fmt::format("{:.1f} M", static_cast<double>(sum) * 1e-6);
    };
    say("model  {}: {}, {} parameters, {} of them trained; {} numbers a text of at most {} tokens",
        options_.model.folder.string(), info.architecture, count(all_), count(trained_), info.width,
        model_->max_tokens());
    for (const std::string& note : info.notes) say("note   {}", note);
    say("pairs  {} for training{}, {} held out{}", training_.size(),
        training_.hard_negatives > 0 ? fmt::format(" with {} hard negatives each", training_.hard_negatives) : "",
        held_out_ ? std::to_string(held_out_->queries.size()) + " searches" : "none",
        training_.skipped > 0 ? fmt::format("; {} rows with an empty text passed over", training_.skipped) : "");
    if (batch_ < options_.batch) say("note   the batch is all {} pairs, --batch asks for {}", batch_, options_.batch);
    if (!prefixes_.query.empty() || !prefixes_.passage.empty()) {
      say("prefix '{}' for anchors, '{}' for the others", prefixes_.query, prefixes_.passage);
    }
    say("run    {} steps of {} pairs, loss {}, in {}", steps_, batch_, options_.loss.name, folder_.string());
  }

  std::filesystem::path checkpoint() const { return folder_ / "checkpoint.safetensors"; }

  void start_or_resume() {
    std::error_code error;
    if (!options_.resume || !std::filesystem::exists(checkpoint(), error)) {
      log_.emplace(folder_);
      return;
    }
    const train::TrainingPosition position = train::load_checkpoint(checkpoint(), saved_, *optimizer_, averages());
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
    log_.emplace(folder_, step_);
    say("resume after {} of {} steps", step_, steps_);
  }

  void save() {
    train::TrainingPosition position{step_, options_.seed, {{"settings", Json(settings_).dump()}}};
    Json before = Json::object();
    for (const auto& [name, value] : before_) before[name] = value;
    position.notes["before"] = before.dump();
    if (const auto* plan = std::get_if<gradcache::MemoryPlan>(&step_options_.cut)) {
      position.notes["plan"] = to_json(*plan).dump();
    }
    train::save_checkpoint(checkpoint(), saved_, *optimizer_, position, averages());
  }

  /// The next step. Throws NumericalError where it cannot be taken.
  MetricsLog::Figures step() {
    const auto epoch = [this](std::int64_t number) { return static_cast<std::uint32_t>(order_->epoch(number)); };
    const PairBatch batch = batches_->batch(order_->rows(step_), epoch(step_));
    if (step_ + 1 < steps_) batches_->load_ahead(order_->rows(step_ + 1), epoch(step_ + 1));
    const std::vector<gradcache::Tower> towers = towers_of(batch, *model_, images_.get());
    const gradcache::Loss loss = loss_->of(batch, prefixes_, options_.model.embed());
    model_->model().set_training(true);
    begin_random_step(options_.seed, static_cast<std::uint32_t>(step_));
    if (std::holds_alternative<gradcache::MemoryBudget>(step_options_.cut)) {
      const gradcache::MemoryPlan plan = gradcache::plan_memory(towers, step_options_);
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
    const double norm = (options_.clip_norm > 0 ? train::clip_gradient_norm(trained_, options_.clip_norm)
                                                : train::gradient_norm(trained_))
                            .item();
    if (!std::isfinite(norm)) throw NumericalError(fmt::format("step {}: the gradient's norm is {}", step_ + 1, norm));
    optimizer_->step(rate);
    optimizer_->clear_gradients();
    loss_->after_step();
    if (ema_) ema_->update();
    ++step_;
    return {{"loss", result.loss.item()},
            {"learning_rate", rate},
            {"gradient_norm", norm},
            {"scale", loss_->scale()},
            {"peak_bytes", static_cast<double>(result.peak_bytes)}};
  }

  /// The cached against the direct gradient, on the first pairs of the batch.
  void check(const PairBatch& whole) {
    const std::int64_t pairs = std::min(kCheckedPairs, whole.size());
    const PairBatch batch = first_pairs(whole, pairs);
    gradcache::StepOptions options = step_options_;
    options.cut = {std::min(kCheckedChunk, std::max<std::int64_t>(1, pairs / 2))};
    const double distance = gradcache::compare(towers_of(batch, *model_, images_.get()),
                                               loss_->of(batch, prefixes_, options_.model.embed()), options, trained_)
                                .relative_norm;
    log_->add("check", step_, {{"gradient_distance", distance}});
    if (!(distance <= options_.model.gradient_tolerance())) {
      throw NumericalError(
          fmt::format("step {}: the cached gradient differs from the direct one by {:.1e} of its norm, "
                      "expected at most {:.0e}",
                      step_ + 1, distance, options_.model.gradient_tolerance()));
    }
  }

  MetricsLog::Figures evaluated(const std::string& when, bool log) {
    MetricsLog::Figures figures = with_averages(
        [&] { return evaluate(*model_, images_.get(), *held_out_, prefixes_, options_.model.embed()).named(); });
    std::string line;
    for (const auto& [name, value] : figures) line += fmt::format("  {} {:.4f}", name, value);
    say("{}{}", when, line);
    if (log) log_->add("eval", step_, figures);
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
  std::filesystem::path folder_;
  Pairs training_;
  std::optional<RetrievalTask> held_out_;
  std::unique_ptr<TextModel> model_;
  std::unique_ptr<ImageEncoder> images_;  // where the pairs have some
  Prefixes prefixes_;
  std::unique_ptr<TrainingLoss> loss_;
  std::vector<Parameter> all_, trained_, saved_;
  std::optional<models::Lora> adapter_;
  std::unique_ptr<train::AdamW> optimizer_;
  std::optional<train::Ema> ema_;
  std::unique_ptr<data::BatchOrder> order_;
  std::unique_ptr<PairBatches> batches_;
  gradcache::StepOptions step_options_;
  std::map<std::string, std::string> settings_;
  std::int64_t batch_ = 0, steps_ = 0, warmup_ = 0, eval_every_ = 0, step_ = 0;
  MetricsLog::Figures before_;
  std::optional<MetricsLog> log_;
};

}  // namespace

int run_train(const TrainOptions& options) { return Run(options).go(); }

}  // namespace tapecache::program
