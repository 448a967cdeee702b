#include "tapecache/models/pretrained_gated.h"

#include <cstddef>
#include <memory>
#include <string>

#include <fmt/format.h>

#include "tapecache/models/encoder_fields.h"

namespace tapecache::models::detail {

FamilyPlan plan_of(const FamilySource& source, const GatedTextConfig& config, const char* saved_class) {
  FamilyPlan plan;
  plan.prefix = prefix_in(source.files, fmt::format("{}.weight", config.words));
  plan.saved_class = saved_class;
  plan.info.width = config.blocks.width;
  plan.info.vocabulary = config.vocabulary;
  plan.info.max_tokens = config.max_tokens;
  note_attention_dropout(source.config, "attention_dropout", plan.info);
  plan.pools = true;
  if (source.options.pooler && !source.has_modules) {
    source.config.refuse("model_type", "one with a pooler, which the options ask for");
  }
  plan.make = [config](const Builder& builder) {
    const auto model = std::make_shared<const GatedText>(builder, config);
    FamilyModel made;
    made.states = [model](const TokenBatch& tokens) { return model->hidden_states(tokens); };
    return made;
  };
  return plan;
}

std::vector<bool> global_layers(const JsonFields& fields, std::int64_t layers,
                                const std::function<bool(std::int64_t)>& unsaid) {
  std::vector<bool> all;
  if (!fields.has("layer_types")) {
    for (std::int64_t i = 0; i < layers; ++i) all.push_back(unsaid(i));
    return all;
  }
  for (const std::string& type : fields.texts("layer_types")) {
    if (type != "full_attention" && type != "sliding_attention") {
      fields.refuse("layer_types", "full_attention and sliding_attention");
      return std::vector<bool>(static_cast<std::size_t>(layers));
    }
    all.push_back(type == "full_attention");
  }
  if (std::cmp_not_equal(all.size(), layers)) {
    fields.refuse("layer_types", fmt::format("one of these for each of {} layers", layers));
    all.resize(static_cast<std::size_t>(layers));
  }
  return all;
}

}  // namespace tapecache::models::detail
