#include "tapecache/models/vit.h"

#include <vector>

#include <fmt/format.h>

#include "tapecache/models/position_grid.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/reduce.h"

namespace tapecache::models::detail {

namespace {

constexpr Init kInit = Init::normal(0.02);

std::int64_t side_of(const VitConfig& config) { return config.image_size / config.patch_size; }

/// Tokens [tokens, width] that each sample has.
Variable for_each_sample(const Variable& tokens, std::int64_t batch) {
  const std::int64_t count = tokens.size(0), width = tokens.size(1);
  const Variable zeros(Tensor::zeros({batch, count, width}, tokens.dtype(), tokens.device()));
  return ops::add(zeros, tokens);
}

}  // namespace

Vit::Vit(const Builder& builder, const VitConfig& config)
    : config_(config),
      class_token_(builder.parameter("embeddings.cls_token", {1, 1, config.encoder.width}, kInit)),
      positions_(builder.parameter("embeddings.position_embeddings",
                                   {1, 1 + side_of(config) * side_of(config), config.encoder.width}, kInit)),
      registers_(config.registers > 0 ? builder.parameter("embeddings.register_tokens",
                                                          {1, config.registers, config.encoder.width}, kInit)
                                      : Parameter()),
      patches_(builder.child("embeddings.patch_embeddings.projection"), config.channels, config.patch_size,
               config.encoder.width, true),
      dropout_(builder, config.embedding_dropout),
      encoder_(builder.child("encoder"), config.encoder, config.block, "layer"),
      norm_(builder.child("layernorm"), config.encoder.width, config.encoder.epsilon) {}

/// As transformers has it: also where there are as many patches as positions, unless both grids are square.
Variable Vit::positions_for(std::int64_t rows, std::int64_t columns) const {
  const std::int64_t side = side_of(config_), width = config_.encoder.width;
  const Variable all = ops::reshape(positions_, {1 + side * side, width});
  if (rows == side && columns == side) return all;
  const bool antialias = config_.other_sizes == VitConfig::OtherSizes::kAntialiased;
  const Variable grid = resized_grid(ops::slice(all, 0, 1, 1 + side * side), side, rows, columns, antialias);
  return ops::concat({ops::slice(all, 0, 0, 1), grid}, 0);
}

Variable Vit::embed(const Variable& images) const {
  const bool is_fixed = config_.other_sizes == VitConfig::OtherSizes::kRefused;
  const std::int64_t size = config_.image_size, patch = config_.patch_size;
  if (images.rank() != 4 || images.size(1) != config_.channels ||
      (is_fixed && (images.size(2) != size || images.size(3) != size))) {
    const std::string sides = is_fixed ? fmt::format("{0}, {0}", size) : "height, width";
    throw ShapeError(fmt::format("vision transformer: images have shape {}, expected [batch, {}, {}]",
                                 to_string(images.shape()), config_.channels, sides));
  }
  const std::int64_t batch = images.size(0), rows = images.size(2) / patch, columns = images.size(3) / patch;
  const Variable patches = patches_(images);
  if (patches.size(1) == 0) {
    throw ShapeError(fmt::format("vision transformer: images have shape {}, expected at least one patch of {}",
                                 to_string(images.shape()), patch));
  }
  const Variable positions = positions_for(rows, columns);
  const std::int64_t width = config_.encoder.width;
  const Variable first = ops::add(ops::reshape(class_token_, {1, width}), ops::slice(positions, 0, 0, 1));
  std::vector<Variable> tokens{for_each_sample(first, batch)};
  if (registers_.defined()) {
    tokens.push_back(for_each_sample(ops::reshape(registers_, {config_.registers, width}), batch));
  }
  tokens.push_back(ops::add(patches, ops::slice(positions, 0, 1, 1 + rows * columns)));
  return dropout_(ops::concat(std::span<const Variable>(tokens), 1));
}

Variable Vit::hidden_states(const Variable& images) const { return norm_(encoder_(embed(images))); }

Variable Vit::operator()(const Variable& images) const {
  return norm_(encoder_(embed(images), {}, [](const Variable& x) { return ops::cls_pool(x); }));
}

Variable Vit::class_and_patches(const Variable& images) const {
  const Variable states = hidden_states(images);
  const Variable patches = ops::slice(states, 1, 1 + config_.registers, states.size(1));
  return ops::concat({ops::cls_pool(states), ops::mean_pool(patches)}, 1);
}

}  // namespace tapecache::models::detail
