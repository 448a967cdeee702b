#include "tapecache/models/transformer_block.h"

#include <fmt/format.h>

#include "tapecache/core/error.h"
#include "tapecache/models/argument_checks.h"

namespace tapecache::models::detail {

void check_transformer(const char* model, const TransformerConfig& config) {
  require_sizes(
      model,
      {{"width", config.width}, {"layers", config.layers}, {"heads", config.heads}, {"mlp_width", config.mlp_width}});
  if (config.width % config.heads != 0) {
    throw ValueError(fmt::format("{}: {} heads do not divide a width of {}", model, config.heads, config.width));
  }
  require_probability(model, "dropout", config.dropout);
  require_probability(model, "drop_path", config.drop_path);
  require_epsilon(model, config.epsilon);
}

}  // namespace tapecache::models::detail
