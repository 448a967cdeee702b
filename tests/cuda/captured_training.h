#pragma once

#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "cuda_device.h"
#include "gradcache_checks.h"
#include "small_model.h"
#include "tapecache/core/captured_step.h"
#include "tapecache/core/random.h"
#include "tapecache/losses/losses.h"
#include "tapecache/train/loss_scaler.h"
#include "tapecache/train/optimizer.h"

/// A training whose steps can be captured, and the same done step by step.
namespace tapecache::testing {

using namespace gradcache;
using namespace losses;

inline constexpr std::uint64_t kSeed = 11;
inline constexpr std::int64_t kSamples = 6, kTokens = 12, kSteps = 6;

struct Batch {
  Tensor images, ids, valid;
};

inline Batch batch_of(std::uint32_t step) {
  Batch batch{random_values({kSamples, 3, 16, 16}, 100 + step, DType::kFloat32),
              Tensor::empty({kSamples, kTokens}, DType::kInt32), Tensor::zeros({kSamples, kTokens}, DType::kBool)};
  for (std::int64_t i = 0; i < kSamples; ++i) {
    const std::int64_t length = 1 + (i * 7 + step) % kTokens;
    for (std::int64_t t = 0; t < kTokens; ++t) {
      batch.ids.mutable_data<std::int32_t>()[i * kTokens + t] = static_cast<std::int32_t>((i + 3 * t + step) % 30);
      batch.valid.mutable_data<bool>()[i * kTokens + t] = t < length;
    }
  }
  return batch;
}

enum class Kind { kDirect, kCached, kCachedBFloat16 };

/// Where the batch, representations and their gradients are.
struct Places {
  bool upload = false, offload = false;
};

/// A model in training, whose inputs and learning rate are at fixed places.
struct Training {
  SmallModel model{kSamples, 0.1, 1};  // a second layer would capture the same kernels again
  Batch batch = batch_of(0);
  Tensor rate = Tensor::zeros({}, DType::kFloat64, kCuda);
  Number norm = 0;
  std::optional<train::AdamW> optimizer;
  train::LossScaler scaler{{.initial_scale = 1024, .growth_interval = 3}, kCuda};
  std::vector<Tower> towers;
  StepOptions options = device_options();
  Kind kind;
  bool tiled, clear = true;
  StepResult result;

  explicit Training(Kind k, bool tiled_loss = false, Places places = {}, std::int64_t kept = 1)
      : kind(k), tiled(tiled_loss) {
    model.clip.to(kCuda);
    const auto place = [&](const Tensor& t) { return places.upload ? t.pinned() : t.to(kCuda); };
    batch = {place(batch.images), place(batch.ids), place(batch.valid)};
    optimizer.emplace(model.clip.parameters(), train::AdamWOptions{.weight_decay = 0.1});
    towers = {{"image", batch.images, [this](const Tensor& x) { return model.clip.encode_image(x); }},
              {"text", models::TokenBatch{batch.ids, batch.valid},
               [this](const models::TokenBatch& x) { return model.clip.encode_text(x); }}};
    for (Tower& tower : towers) {
      if (places.upload) tower = tower.upload_to(kCuda);
    }
    options.offload = places.offload;
    options.deferred = true;
    options.scale = scaler.scale();
    options.cut = MemoryPlan{{4, 3}, kept};
    if (kind == Kind::kCachedBFloat16) options.autocast = DType::kBFloat16;
  }

  void step() {
    const Loss loss = [this](std::span<const Variable> r) {
      return tiled ? clip_loss(r[0], r[1], {.scale = Scale::from_log(model.clip.logit_scale()), .tiles = {{4, 4}}})
                   : clip_loss(r[0], r[1], {.scale = Scale::from_log(model.clip.logit_scale())});
    };
    result = kind == Kind::kDirect ? direct_step(towers, loss, options.direct()) : cached_step(towers, loss, options);
    norm = train::clip_gradient_norm(model.clip.parameters(), 0.5 * 1024);
    optimizer->step(rate, scaler.gradient_scale(), result.non_finite);
    scaler.update(result.non_finite);
    if (clear) optimizer->clear_gradients();
    Parameter scale = model.clip.logit_scale();
    clamp_log_scale(scale);
  }

  void prepare(std::uint32_t t, const Batch& next) {
    batch.images.copy_from(next.images.to(batch.images.device()));
    batch.ids.copy_from(next.ids.to(batch.ids.device()));
    batch.valid.copy_from(next.valid.to(batch.valid.device()));
    rate.fill(train::warmup_cosine(t, 2, 10, 1e-2));
  }
  void prepare(std::uint32_t t) { prepare(t, batch_of(t)); }
};

/// A step as it is, and the same recorded.
struct Both {
  Training plain, replayed;
  CapturedStep captured;

  template <class... Arguments>
  explicit Both(Arguments... arguments)
      : plain(arguments...),
        replayed(arguments...),
        captured(
            kCuda, [this] { replayed.step(); }, kSeed) {}

  void step(std::uint32_t t, const Batch& batch) {
    plain.prepare(t, batch);
    begin_random_step(kSeed, t);
    plain.step();
    const RandomState after = random_state();
    replayed.prepare(t, batch);
    const std::uint64_t waits = Device::waits();
    captured.replay(t);
    BOOST_TEST(Device::waits() == waits);
    BOOST_TEST((random_state() == after));
  }
  void step(std::uint32_t t) { step(t, batch_of(t)); }

  void check_alike() {
    const auto expected = plain.model.clip.parameters(), found = replayed.model.clip.parameters();
    for (std::size_t i = 0; i < expected.size(); ++i) {
      BOOST_TEST(same_bits(found[i].value(), expected[i].value()), expected[i].name());
    }
    const auto state = plain.optimizer->state();
    for (const auto& [name, tensor] : replayed.optimizer->state()) BOOST_TEST(same_bits(tensor, state.at(name)), name);
    BOOST_TEST(replayed.result.loss.item() == plain.result.loss.item());
    BOOST_TEST(replayed.norm.item() == plain.norm.item());
    BOOST_TEST(replayed.scaler.scale().item() == plain.scaler.scale().item());
    for (std::size_t i = 0; i < plain.result.representations.size(); ++i) {
      BOOST_TEST(same_bits(replayed.result.representations[i], plain.result.representations[i]));
    }
  }
};

/// Takes what memory there is free, and fills it with NaN.
inline std::vector<Tensor> occupied() {
  std::vector<Tensor> tensors;
  for (const std::int64_t n : {16, 100, 1000, 5000, 20'000, 100'000}) {
    for (int i = 0; i < 30; ++i) tensors.push_back(Tensor::full({n}, std::nan(""), DType::kFloat32, kCuda));
  }
  return tensors;
}

}  // namespace tapecache::testing
