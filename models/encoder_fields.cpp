#include "tapecache/models/encoder_fields.h"

#include <fmt/format.h>

#include "tapecache/models/activation_names.h"

namespace tapecache::models::detail {

TransformerConfig read_encoder(const JsonFields& fields, const FamilySource& source, TransformerConfig encoder) {
  encoder.width = fields.size("hidden_size", encoder.width);
  encoder.layers = fields.size("num_hidden_layers", encoder.layers);
  encoder.heads = fields.size("num_attention_heads", encoder.heads);
  encoder.mlp_width = fields.size("intermediate_size", encoder.mlp_width);
  encoder.epsilon = fields.positive("layer_norm_eps", encoder.epsilon);
  encoder.checkpoint = source.options.checkpoint;
  encoder.activation = read_activation(fields, "hidden_act", encoder.activation);
  check_heads(fields, encoder.width, encoder.heads);
  check_layers(fields, source, encoder.layers);
  return encoder;
}

void check_heads(const JsonFields& fields, std::int64_t width, std::int64_t heads) {
  if (width % heads == 0) return;
  fields.refuse_size("num_attention_heads", fmt::format("a divisor of hidden_size, {}", width));
}

void check_layers(const JsonFields& fields, const FamilySource& source, std::int64_t layers) {
  const std::size_t tensors = source.files.names().size();
  if (std::cmp_less_equal(layers, tensors)) return;
  fields.refuse_size("num_hidden_layers", fmt::format("fewer than the {} tensors of the files", tensors));
}

ops::Activation read_activation(const JsonFields& fields, std::string_view field, ops::Activation otherwise) {
  if (const auto known = activation_named(fields.text(field, name_of(otherwise)))) return *known;
  fields.refuse(field, "gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, quick_gelu, relu or silu");
  return otherwise;
}

std::string prefix_in(const WeightFiles& files, std::string_view words) {
  if (files.contains(words)) return "";
  for (const std::string& name : files.names()) {
    if (name.ends_with(words) && name[name.size() - words.size() - 1] == '.') {
      return name.substr(0, name.size() - words.size());
    }
  }
  return "";
}

void refuse_foreign_code(const JsonFields& fields) {
  if (fields.object("auto_map").has("AutoModel")) {
    fields.object("auto_map").refuse("AutoModel", "none: code of the folder's own is not run");
  }
  fields.none("quantization_config");
}

void note_attention_dropout(const JsonFields& fields, const char* field, Pretrained::Info& info) {
  if (const double probability = fields.probability(field, 0); probability > 0) {
    info.notes.push_back(
        fmt::format("{} is {}, but attention weights are not dropped in training", field, probability));
  }
}

}  // namespace tapecache::models::detail
