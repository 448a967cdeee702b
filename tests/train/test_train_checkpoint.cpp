#include <csignal>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <sys/resource.h>

#include "folder.h"
#include "tapecache/core/error.h"
#include "tapecache/core/files.h"
#include "tapecache/core/random.h"
#include "tapecache/gradcache/step.h"
#include "tapecache/losses/losses.h"
#include "tapecache/models/clip.h"
#include "tapecache/models/pretrained.h"
#include "tapecache/train/checkpoint.h"
#include "tapecache/train/optimizer.h"
#include "train_checks.h"

using namespace tapecache;
using namespace tapecache::testing;
using namespace tapecache::train;

namespace {

models::ClipConfig tiny_clip() {
  const models::TransformerConfig encoder{.width = 8, .layers = 1, .heads = 2, .mlp_width = 16, .dropout = 0.2};
  return {.vision = {.image_size = 8, .patch_size = 4, .encoder = models::VisionEncoderConfig(encoder)},
          .text = {.vocabulary = 12,
                   .max_tokens = 4,
                   .pooling = models::TextConfig::Pooling::kLastToken,
                   .encoder = encoder},
          .projection_width = 6};
}

/// A training run over fixed data, in f32 with dropout: everything a program would make anew.
struct Run {
  explicit Run(std::uint64_t seed = 1, const models::ClipConfig& config = tiny_clip())
      : clip(config, seed), optimizer(clip.parameters(), {.weight_decay = 0.1}) {}

  double step() {
    begin_random_step(position.seed, static_cast<std::uint32_t>(position.step));
    const Tensor images = random_values({6, 3, 8, 8}, 50 + static_cast<std::uint64_t>(position.step), DType::kFloat32);
    std::vector<std::vector<std::int32_t>> words;
    for (std::int32_t i = 0; i < 6; ++i) words.push_back({i, i + 1, static_cast<std::int32_t>(position.step) + i});
    const std::vector<gradcache::Tower> towers{
        {"image", images, [this](const Tensor& x) { return clip.encode_image(x); }},
        {"text", models::TokenBatch::pad(words), [this](const models::TokenBatch& x) { return clip.encode_text(x); }}};
    const gradcache::Loss loss = [this](std::span<const Variable> r) {
      return losses::clip_loss(r[0], r[1], {.scale = losses::Scale::from_log(clip.logit_scale())});
    };
    const double found = gradcache::cached_step(towers, loss, {{4}}).loss.item();
    clip_gradient_norm(clip.parameters(), 1.0);
    optimizer.step(warmup_cosine(position.step, 2, 6, 0.01));
    optimizer.clear_gradients();
    ++position.step;
    return found;
  }

  void save(const std::filesystem::path& path) const { save_checkpoint(path, clip.parameters(), optimizer, position); }
  void load(const std::filesystem::path& path) { position = load_checkpoint(path, clip.parameters(), optimizer); }

  models::Clip clip;
  AdamW optimizer;
  TrainingPosition position{
      .step = 0, .seed = 0xfedcba9876543210, .notes = {{"epoch", "2"}, {"läuft", "ja, \"gut\"\n"}, {"", ""}}};
};

struct Victim {
  Run run{7};
  std::vector<Tensor> parameters;
  std::map<std::string, Tensor> state;

  Victim() {
    run.step();
    parameters = copies(run.clip.parameters());
    state = copies(run.optimizer.state());
  }
  void refuses(const std::filesystem::path& path, std::vector<std::string> words = {}) {
    words.push_back(path.string());
    BOOST_CHECK_EXCEPTION(run.load(path), FileError, says(words));
    BOOST_TEST(same(run.clip.parameters(), parameters));
    BOOST_TEST(same(run.optimizer.state(), state));
    BOOST_TEST(run.position.step == 1);
  }
};

}  // namespace

BOOST_AUTO_TEST_SUITE(train_checkpoint)

BOOST_AUTO_TEST_CASE(a_resumed_run_goes_on_to_the_same_bits) {
  const Folder folder;
  Run whole;
  std::vector<double> losses;
  for (int i = 0; i < 6; ++i) losses.push_back(whole.step());
  {
    Run first;
    for (int i = 0; i < 3; ++i) BOOST_TEST(first.step() == losses[static_cast<std::size_t>(i)]);
    first.save(folder / "run.safetensors");
  }
  begin_random_step(99, 99);
  Run second(2);  // other weights, that must not show
  second.position = {};
  second.load(folder / "run.safetensors");
  BOOST_TEST(second.position.step == 3);
  BOOST_TEST(second.position.seed == 0xfedcba9876543210);
  BOOST_TEST((second.position.notes == Run().position.notes));
  for (std::size_t i = 3; i < 6; ++i) BOOST_TEST(second.step() == losses[i]);
  BOOST_TEST(same(second.clip.parameters(), copies(whole.clip.parameters())));
  BOOST_TEST(same(second.optimizer.state(), whole.optimizer.state()));
  BOOST_TEST((second.position == whole.position));
  // The steps did something, and differ from those without the optimiser's state or the random position.
  BOOST_TEST(!same(whole.clip.parameters(), copies(Run().clip.parameters())));
  Run third;
  third.load(folder / "run.safetensors");
  third.position.seed = 5;
  third.step();
  BOOST_TEST(third.optimizer.state().at("steps.logit_scale").item() == 4);
  Run fourth;
  for (int i = 0; i < 4; ++i) fourth.step();
  BOOST_TEST(!same(third.clip.parameters(), copies(fourth.clip.parameters())));
}

BOOST_AUTO_TEST_CASE(saving_twice_gives_the_same_file) {
  const Folder folder;
  Run run;
  run.step();
  run.save(folder / "a.safetensors");
  Run other(3);
  other.load(folder / "a.safetensors");
  other.save(folder / "b.safetensors");
  BOOST_TEST((contents(folder / "a.safetensors") == contents(folder / "b.safetensors")));
  BOOST_TEST(folder.entries() == 2);  // and no temporary file is left
}

BOOST_AUTO_TEST_CASE(buffers_travel_too) {
  const Folder folder;
  const std::vector<Parameter> parameters = some_parameters();
  AdamW optimizer(parameters, {});
  const std::vector<Buffer> saved{{"norm.running_mean", vector_of({1, 2})}},
      loaded{{"norm.running_mean", vector_of({0, 0})}};
  save_checkpoint(folder / "run.safetensors", parameters, optimizer, {4, 0, {}}, saved);
  BOOST_TEST(load_checkpoint(folder / "run.safetensors", parameters, optimizer, loaded).step == 4);
  check_equal(loaded[0].value, {1, 2});
  const std::vector<Buffer> other{{"norm.running_mean", vector_of({0, 0, 0})}},
      missing{{"norm.running_var", vector_of({7})}};
  BOOST_CHECK_EXCEPTION(load_checkpoint(folder / "run.safetensors", parameters, optimizer, other), FileError,
                        says({"'norm.running_mean'", "[2]", "[3]"}));
  BOOST_CHECK_EXCEPTION(load_checkpoint(folder / "run.safetensors", parameters, optimizer, missing), FileError,
                        says({"'norm.running_var' is missing"}));
  BOOST_CHECK_EXCEPTION(load_checkpoint(folder / "run.safetensors", parameters, optimizer), FileError,
                        says({"'model.norm.running_mean' belongs to no parameter"}));
  const std::vector<Buffer> twin{{"matrix", vector_of({1})}};
  BOOST_CHECK_EXCEPTION(save_checkpoint(folder / "twin.safetensors", parameters, optimizer, {}, twin), ValueError,
                        says({"'matrix'"}));
}

BOOST_AUTO_TEST_CASE(momentum_travels_too) {
  const Folder folder;
  const std::vector<Parameter> a = some_parameters(), b = some_parameters();
  Sgd from(a, {.momentum = 0.9}), to(b, {.momentum = 0.9});
  give_gradients(a, 1), from.step(0.1);
  save_checkpoint(folder / "c", a, from, {.step = 1, .seed = 2, .notes = {}});
  const TrainingPosition position = load_checkpoint(folder / "c", b, to);
  BOOST_TEST((position == TrainingPosition{.step = 1, .seed = 2, .notes = {}}));
  give_gradients(a, 2), from.step(0.1);
  give_gradients(b, 2), to.step(0.1);
  BOOST_TEST(same(b, copies(a)));
}

BOOST_AUTO_TEST_CASE(one_optimiser_of_several_is_as_one_alone) {
  const Folder folder;
  Run run;
  run.step();
  run.save(folder / "alone");
  const std::vector<Optimizer*> one{&run.optimizer};
  save_checkpoint(folder / "one", run.clip.parameters(), one, run.position);
  BOOST_TEST((contents(folder / "alone") == contents(folder / "one")));
  save_checkpoint(folder / "none", run.clip.parameters(), std::span<const Optimizer* const>(), run.position);
  BOOST_TEST((load_checkpoint(folder / "none", run.clip.parameters(), std::span<Optimizer* const>()) == run.position));
}

BOOST_AUTO_TEST_CASE(models_are_read_out_of_a_checkpoint) {
  const Folder folder;
  Run run;
  run.step();
  run.save(folder / "run");
  const models::Clip clip(tiny_clip(), 9);
  models::load_weights(folder / "run", clip.builder(), {.prefix = "model."});
  BOOST_TEST(same(clip.parameters(), copies(run.clip.parameters())));
  BOOST_CHECK_EXCEPTION(models::load_weights(folder / "run", clip.builder()), FileError, says({"prefix \"model.\""}));
}

/// A run that a bad checkpoint must leave as it is.
BOOST_AUTO_TEST_CASE(truncated_checkpoints_are_refused) {
  const Folder folder;
  Run good;
  for (int i = 0; i < 2; ++i) good.step();
  good.save(folder / "good");
  const std::string bytes = contents(folder / "good");
  Victim victim;
  victim.refuses(folder / "absent", {"open"});
  std::vector<std::size_t> lengths{0, 1, 7, 8, 9, 100, bytes.size() - 1, bytes.size() - 4096};
  for (std::size_t i = 1; i < 16; ++i) lengths.push_back(bytes.size() * i / 16);
  for (const std::size_t length : lengths) {
    BOOST_TEST_CONTEXT("first " << length << " of " << bytes.size() << " bytes") {
      put(folder / "cut", std::string_view(bytes).substr(0, length));
      victim.refuses(folder / "cut");
    }
  }
  put(folder / "cut", bytes + "x");
  victim.refuses(folder / "cut");
  put(folder / "cut", bytes);
  BOOST_CHECK_NO_THROW(victim.run.load(folder / "cut"));
  BOOST_TEST(same(victim.run.clip.parameters(), copies(good.clip.parameters())));
}

BOOST_AUTO_TEST_CASE(checkpoints_of_something_else_are_refused) {
  const Folder folder;
  Run good;
  for (int i = 0; i < 2; ++i) good.step();
  good.save(folder / "good");
  const SafetensorsFile file = read_safetensors(folder / "good");
  const auto path = folder / "bad";
  Victim victim;
  const auto refuses = [&](const std::function<void(SafetensorsFile&)>& change, const std::vector<std::string>& words) {
    SafetensorsFile changed = file;
    change(changed);
    write_safetensors(path, changed);
    victim.refuses(path, words);
  };

  refuses([](auto& f) { f.metadata.clear(); }, {"tapecache.step"});
  refuses([](auto& f) { f.metadata.erase("tapecache.step"); }, {"tapecache.step"});
  refuses([](auto& f) { f.metadata.erase("tapecache.seed"); }, {"tapecache.seed"});
  for (const char* text : {"", "x", "3x", " 3", "3.5", "99999999999999999999", "0x10"}) {
    refuses([&](auto& f) { f.metadata["tapecache.step"] = text; }, {"tapecache.step"});
  }
  refuses([](auto& f) { f.metadata["tapecache.seed"] = "-1"; }, {"tapecache.seed"});

  refuses([](auto& f) { f.tensors.erase("model.logit_scale"); }, {"'logit_scale'", "missing"});
  refuses([](auto& f) { f.tensors["model.logit_scale"] = Tensor::zeros({1}); }, {"'logit_scale'", "[1]"});
  refuses([](auto& f) { f.tensors["model.logit_scale"] = Tensor::zeros({}, DType::kFloat64); },
          {"'logit_scale'", "float64"});
  refuses([](auto& f) { f.tensors["model.surplus"] = Tensor::zeros({1}); }, {"'model.surplus'"});
  refuses([](auto& f) { f.tensors["surplus"] = Tensor::zeros({1}); }, {"'surplus'"});
  refuses([](auto& f) { f.tensors["optimizer.surplus"] = Tensor::zeros({1}); }, {"'surplus'"});
  refuses([](auto& f) { f.tensors.erase("optimizer.v.logit_scale"); }, {"'v.logit_scale'", "missing"});
  refuses([](auto& f) { f.tensors["optimizer.v.logit_scale"] = Tensor::zeros({2}); }, {"'v.logit_scale'", "[2]"});
  refuses([](auto& f) { f.tensors["optimizer.steps.logit_scale"] = Tensor::zeros({}); }, {"'steps.logit_scale'"});

  models::ClipConfig deeper = tiny_clip(), wider = tiny_clip();
  deeper.text.encoder.layers = 2;
  wider.text.encoder.mlp_width = 24;
  Run(1, deeper).save(path);
  victim.refuses(path, {"text_model.encoder.layers.1"});
  models::ClipConfig other_heads = tiny_clip();
  other_heads.vision.encoder.heads = 4;
  Run(1, other_heads).save(path);
  victim.refuses(path, {"'model.vision_model.encoder.layers.0.self_attn.q_proj.weight'", "heads 4, expected 2"});
  Run(1, wider).save(path);
  victim.refuses(path, {"text_model.encoder.layers.0.mlp.fc1", "[24", "[16"});

  const Sgd sgd(good.clip.parameters());
  save_checkpoint(path, good.clip.parameters(), sgd, good.position);
  victim.refuses(path, {"velocity."});
  put(path, "not a checkpoint at all, but long enough to hold a header");
  victim.refuses(path);
}

BOOST_AUTO_TEST_CASE(an_adamw_checkpoint_does_not_fit_sgd) {
  const Folder folder;
  Run good;
  good.step();
  good.save(folder / "good");
  const Run other(5);
  Sgd sgd(other.clip.parameters());
  const std::vector<Tensor> before = copies(other.clip.parameters());
  BOOST_CHECK_EXCEPTION(load_checkpoint(folder / "good", other.clip.parameters(), sgd), FileError,
                        says({"unknown state"}));
  BOOST_TEST(same(other.clip.parameters(), before));
}

/// Lets no file grow beyond some bytes, for a scope: a disk that runs full.
class FullDisk {
 public:
  explicit FullDisk(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &limit_);
    const rlimit small{bytes, limit_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &small);
  }
  ~FullDisk() {
    ::setrlimit(RLIMIT_FSIZE, &limit_);
    std::signal(SIGXFSZ, handler_);
  }
  FullDisk(const FullDisk&) = delete;
  FullDisk& operator=(const FullDisk&) = delete;

 private:
  void (*handler_)(int);
  rlimit limit_{};
};

BOOST_AUTO_TEST_CASE(a_failed_save_leaves_the_old_checkpoint_whole) {
  const Folder folder;
  const auto path = folder / "run.safetensors";
  Run run;
  run.step();
  run.save(path);
  const std::string before = contents(path);
  run.step();
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{100}, before.size() / 2, before.size() - 1}) {
    std::string message;
    {
      const FullDisk full(bytes);
      try {
        run.save(path);
      } catch (const FileError& e) {
        message = e.what();
      }
    }
    BOOST_TEST(message.find(path.string()) != std::string::npos, "the message was '" << message << "'");
    BOOST_TEST((contents(path) == before));
    BOOST_TEST(folder.entries() == 1);
  }
  // A note that is no text, and a parameter named twice.
  TrainingPosition bad = run.position;
  bad.notes["broken"] = "\xff\xfe";
  BOOST_CHECK_THROW(save_checkpoint(path, run.clip.parameters(), run.optimizer, bad), FileError);
  std::vector<Parameter> twice = run.clip.parameters();
  twice.push_back(twice.front());
  BOOST_CHECK_THROW(save_checkpoint(path, twice, run.optimizer, run.position), ValueError);
  BOOST_TEST((contents(path) == before));
  BOOST_TEST(folder.entries() == 1);
  // A folder in the way; and a folder that is a file.
  std::filesystem::create_directories(folder / "taken" / "inside");
  BOOST_CHECK_THROW(run.save(folder / "taken"), FileError);
  BOOST_CHECK_THROW(run.save(path / "below"), FileError);
  BOOST_TEST(folder.entries() == 2);
  Run resumed;
  resumed.load(path);
  BOOST_TEST(resumed.position.step == 1);
}

BOOST_AUTO_TEST_CASE(a_save_creates_missing_folders) {
  const Folder folder;
  Run run;
  run.save(folder / "some" / "where" / "run.safetensors");
  Run other(2);
  other.load(folder / "some" / "where" / "run.safetensors");
  BOOST_TEST(same(other.clip.parameters(), copies(run.clip.parameters())));
}

BOOST_AUTO_TEST_SUITE_END()
