#include "tapecache/models/transformer_block.h"

#include <fmt/format.h>

#include "tapecache/core/error.h"
#include "tapecache/models/argument_checks.h"

namespace tapecache::models::detail {

void check_transformer(const char* model, std::int64_t width, std::int64_t layers, std::int64_t heads,
                       std::int64_t mlp_width, double dropout, double drop_path, double epsilon) {
  require_sizes(model, {{"width", width}, {"layers", layers}, {"heads", heads}, {"mlp_width", mlp_width}});
  if (width % heads != 0) {
    throw ValueError(fmt::format("{}: {} heads do not divide a width of {}", model, heads, width));
  }
  require_probability(model, "dropout", dropout);
  require_probability(model, "drop_path", drop_path);
  require_epsilon(model, epsilon);
}

}  // namespace tapecache::models::detail
