#include "tapecache/models/encoder_fields.h"

#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>

namespace tapecache::models::detail {

std::optional<ops::Activation> activation_named(std::string_view name) {
  constexpr std::array<std::pair<std::string_view, ops::Activation>, 8> kNames{
      {{"gelu", ops::Activation::kGelu},
       {"gelu_new", ops::Activation::kGeluTanh},
       {"gelu_pytorch_tanh", ops::Activation::kGeluTanh},
       {"gelu_fast", ops::Activation::kGeluTanh},
       {"quick_gelu", ops::Activation::kQuickGelu},
       {"relu", ops::Activation::kRelu},
       {"silu", ops::Activation::kSilu},
       {"swish", ops::Activation::kSilu}}};
  const auto* const found = std::find_if(kNames.begin(), kNames.end(), [&](const auto& n) { return n.first == name; });
  return found == kNames.end() ? std::nullopt : std::optional(found->second);
}

TransformerConfig read_encoder(const ConfigFields& fields, const FamilySource& source, TransformerConfig encoder) {
  encoder.width = fields.size("hidden_size", encoder.width);
  encoder.layers = fields.size("num_hidden_layers", encoder.layers);
  encoder.heads = fields.size("num_attention_heads", encoder.heads);
  encoder.mlp_width = fields.size("intermediate_size", encoder.mlp_width);
  encoder.epsilon = fields.positive("layer_norm_eps", encoder.epsilon);
  encoder.checkpoint = source.options.checkpoint;
  const std::string activation = fields.text("hidden_act", name(encoder.activation));
  if (const auto known = activation_named(activation)) encoder.activation = *known;
  else fields.refuse("hidden_act", "gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, quick_gelu, relu or silu");
  if (encoder.width % encoder.heads != 0) {
    fields.refuse_size("num_attention_heads", fmt::format("a divisor of hidden_size, {}", encoder.width));
  }
  if (const std::size_t tensors = source.files.names().size(); std::cmp_greater(encoder.layers, tensors)) {
    fields.refuse_size("num_hidden_layers", fmt::format("fewer than the {} tensors of the files", tensors));
  }
  return encoder;
}

void refuse_foreign_code(const ConfigFields& fields) {
  if (fields.object("auto_map").has("AutoModel")) {
    fields.object("auto_map").refuse("AutoModel", "none: code of the folder's own is not run");
  }
  fields.none("quantization_config");
}

void note_attention_dropout(const ConfigFields& fields, const char* field, PretrainedInfo& info) {
  if (const double probability = fields.probability(field, 0); probability > 0) {
    info.notes.push_back(
        fmt::format("{} is {}, but attention weights are not dropped in training", field, probability));
  }
}

}  // namespace tapecache::models::detail
