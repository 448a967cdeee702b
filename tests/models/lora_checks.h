#pragma once

#include <span>
#include <string>
#include <vector>

#include "model_checks.h"
#include "tapecache/gradcache/tower.h"
#include "tapecache/losses/losses.h"
#include "tapecache/models/bert.h"
#include "tapecache/models/clip.h"
#include "tapecache/models/lora.h"

namespace tapecache::testing {

using namespace tapecache::models;

inline BertConfig tiny_bert(bool checkpoint = false) {
  return {.vocabulary = 11,
          .max_tokens = 6,
          .encoder = {.width = 8, .layers = 2, .heads = 2, .mlp_width = 12, .checkpoint = checkpoint}};
}

/// Layers of either model.
struct Targets {
  std::vector<std::string> clip, bert;
};
inline const std::vector<Targets> kTargets{
    {{"all-linear"}, {"all-linear"}},
    {{"q_proj"}, {"query"}},
    {{"k_proj", "v_proj"}, {"attention.self.key", "value"}},
    {{"mlp.fc1"}, {"intermediate.dense"}},
    {{"fc2", "out_proj", "text_projection"}, {"output.dense"}},
    {{R"(.*layers\.1\..*(k_proj|fc1))"}, {R"(encoder\.layer\.[1]\..*(key|dense))"}}};

/// A model of each placement of norms.
struct Adapted {
  Clip clip;
  Builder builder{4, DType::kFloat64};
  Bert bert;
  Lora of_clip, of_bert;

  explicit Adapted(const Targets& targets, double dropout = 0, bool checkpoint = false)
      : clip(small_clip(0, checkpoint), 3, DType::kFloat64),
        bert(builder, tiny_bert(checkpoint)),
        of_clip((shake(clip.parameters(), 60), add_lora(clip, options(targets.clip, dropout)))),
        of_bert((shake(bert.parameters(), 80), add_lora(bert, options(targets.bert, dropout)))) {
    shake(of_clip.parameters(), 160);
    shake(of_bert.parameters(), 180);
  }

  static LoraOptions options(const std::vector<std::string>& targets, double dropout) {
    return {.rank = 3, .alpha = 5, .dropout = dropout, .targets = targets};
  }
  std::vector<Parameter> parameters() const {
    std::vector<Parameter> all = clip.parameters();
    all.insert(all.end(), bert.parameters().begin(), bert.parameters().end());
    return all;
  }
  std::vector<Lora> adapters() const { return {of_clip, of_bert}; }
  void merge() const {
    for (const Lora& lora : adapters()) lora.merge();
  }
  void set_training(bool on) const { clip.set_training(on), bert.set_training(on); }
  std::vector<Forward> forwards() const {
    return {[*this] { return clip.encode_image(small_images(5)); }, [*this] { return clip.encode_text(sentences()); },
            [*this] { return bert(sentences()); }};
  }
  std::vector<gradcache::Tower> towers() const {
    return {{"image", small_images(5), [*this](const Tensor& x) { return clip.encode_image(x); }},
            {"text", sentences(), [*this](const TokenBatch& x) { return clip.encode_text(x); }}};
  }
  static Variable loss(std::span<const Variable> z) { return losses::clip_loss(z[0], z[1], {.scale = 3}); }
};

}  // namespace tapecache::testing
