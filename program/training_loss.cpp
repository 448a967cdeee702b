#include "training_loss.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string_view>

#include <fmt/format.h>

#include "tapecache/core/error.h"
#include "tapecache/losses/losses.h"

namespace tapecache::program {

namespace {

struct KindByName {
  std::string_view name;
  LossKind kind;
  double scale;  ///< to begin with: of sentence-transformers' losses, of CLIP and of SigLIP
};
constexpr KindByName kKinds[] = {{"infonce", LossKind::kInfoNce, 20},
                                 {"clip", LossKind::kClip, 1 / 0.07},
                                 {"siglip", LossKind::kSiglip, 10},
                                 {"gist", LossKind::kGist, 100},
                                 {"matryoshka", LossKind::kMatryoshka, 20}};
constexpr double kSiglipBias = -10;

std::vector<std::int64_t> parse_widths(std::string_view text, std::int64_t width) {
  std::vector<std::int64_t> widths;
  while (true) {
    std::int64_t value = 0;
    const std::size_t end = std::min(text.find(','), text.size());
    const auto [stop, error] = std::from_chars(text.data(), text.data() + end, value);
    if (error != std::errc() || stop != text.data() + end || value < 1 || value > width) {
      throw ValueError(
          fmt::format("--loss matryoshka: found the width '{}', expected numbers from 1 to {}, the model's, "
                      "as in matryoshka:{},{}",
                      text.substr(0, end), width, width, std::max<std::int64_t>(1, width / 2)));
    }
    widths.push_back(value);
    if (end == text.size()) return widths;
    text.remove_prefix(end + 1);
  }
}

Parameter scalar_parameter(const char* name, double value) { return Parameter(name, Tensor::full({}, value)); }

}  // namespace

std::string loss_name(const LossOptions& options, bool images) {
  if (options.name.empty()) return images ? "clip" : "infonce";
  if (images && options.name == "gist") {
    throw ValueError("--loss gist compares texts, the pairs have images; expected clip, siglip, infonce or matryoshka");
  }
  return options.name;
}

TrainingLoss::TrainingLoss(const LossOptions& options, const TextModel& model, std::int64_t hard_negatives) {
  const std::size_t colon = options.name.find(':');
  const std::string_view name = std::string_view(options.name).substr(0, colon);
  const auto found = std::ranges::find(kKinds, name, &KindByName::name);
  if (found == std::end(kKinds) || (colon != std::string::npos) != (found->kind == LossKind::kMatryoshka)) {
    throw ValueError(fmt::format("--loss is '{}', expected infonce, clip, siglip, gist or matryoshka:WIDTH,WIDTH,...",
                                 options.name));
  }
  kind_ = found->kind;
  if (kind_ == LossKind::kMatryoshka) {
    widths_ = parse_widths(std::string_view(options.name).substr(colon + 1), model.model().info().width);
  }
  if (hard_negatives > 0 && (kind_ == LossKind::kClip || kind_ == LossKind::kSiglip)) {
    throw ValueError(
        fmt::format("--loss {} takes no hard negatives, the pairs have {} each; choose two columns by "
                    "--columns, or another loss",
                    name, hard_negatives));
  }
  scale_ = options.scale.value_or(found->scale);
  if (!(scale_ > 0) || !std::isfinite(scale_)) throw ValueError(fmt::format("--scale is {}, expected above 0", scale_));
  if (kind_ == LossKind::kClip || kind_ == LossKind::kSiglip) {
    const std::optional<Parameter> own = model.model().logit_scale();
    log_scale_ = own ? *own : scalar_parameter("loss.log_scale", std::log(scale_));
    if (own && options.scale) {
      if (!own->requires_gradient()) {
        throw ValueError(fmt::format(
            "--scale or --temperature would change '{}', the model's own scale, which is frozen as --freeze "
            "or --lora says; expected one of the two alone",
            own->name()));
      }
      log_scale_.mutable_value().fill(std::log(scale_));
    }
    if (!own) parameters_.push_back(log_scale_);
  }
  if (kind_ == LossKind::kSiglip) {
    const std::optional<Parameter> own = model.model().logit_bias();
    bias_ = own ? *own : scalar_parameter("loss.bias", kSiglipBias);
    if (!own) parameters_.push_back(bias_);
  }
  if (kind_ == LossKind::kGist) {
    TextModelOptions guide;
    if (options.guide.empty() && model.adapter()) guide.base = model.base();
    guide_ = std::make_unique<TextModel>(options.guide.empty() ? model.folder() : options.guide, guide);
  } else if (!options.guide.empty()) {
    throw ValueError(fmt::format("--guide is for --loss gist, found {}", name));
  }
}

double TrainingLoss::scale() const { return log_scale_.defined() ? std::exp(log_scale_.value().item()) : scale_; }

void TrainingLoss::after_step() {
  // As CLIP was trained; SigLIP's published scales are above CLIP's limit.
  if (kind_ == LossKind::kClip && log_scale_.requires_gradient()) losses::clamp_log_scale(log_scale_);
}

gradcache::Loss TrainingLoss::of(const PairBatch& batch, const Prefixes& prefixes, const EmbedOptions& options,
                                 const ProcessGroup& group) const {
  const ops::EqualTargets equal = batch.equal;
  switch (kind_) {
    case LossKind::kInfoNce:
      return [equal, scale = scale_](const gradcache::Representations& r) {
        return losses::info_nce(r[0], r[1], {.scale = scale, .equal_targets = equal});
      };
    case LossKind::kClip:
      return [equal, scale = log_scale_](const gradcache::Representations& r) {
        return losses::clip_loss(r[0], r[1], {.scale = losses::Scale::from_log(scale), .equal_targets = equal});
      };
    case LossKind::kSiglip:
      return [equal, scale = log_scale_, bias = bias_](const gradcache::Representations& r) {
        return losses::siglip_loss(r[0], r[1],
                                   {.scale = losses::Scale::from_log(scale), .bias = bias, .equal_targets = equal});
      };
    case LossKind::kGist: {
      EmbedOptions of_anchors = options, of_targets = options;
      of_anchors.prefix = prefixes.query;
      of_targets.prefix = prefixes.passage;
      const Shares of_all_targets = batch.targets_of_all();
      Tensor anchors, targets;
      group.together([&] {
        anchors = guide_->embed(batch.pairs.of(batch.anchor_texts), of_anchors);
        targets = guide_->embed(of_all_targets.of(batch.target_texts), of_targets);
      });
      anchors = group.gathered(anchors, batch.pairs);
      targets = group.gathered(targets, of_all_targets);
      return [equal, scale = scale_, anchors, targets](const gradcache::Representations& r) {
        return losses::gist_loss(r[0], r[1], anchors, targets, {.scale = scale, .equal_targets = equal});
      };
    }
    case LossKind::kMatryoshka:
      break;
  }
  return [equal, scale = scale_, widths = widths_](const gradcache::Representations& r) {
    const auto loss = [&](std::span<const Variable> cut) {
      return losses::info_nce(cut[0], cut[1], {.scale = scale, .equal_targets = equal});
    };
    return losses::matryoshka(loss, r, {.widths = widths});
  };
}

}  // namespace tapecache::program
