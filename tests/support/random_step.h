#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "checks.h"
#include "tapecache/autograd/function.h"
#include "tapecache/gradcache/step.h"
#include "tapecache/losses/losses.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/linear.h"
#include "tapecache/ops/normalize.h"
#include "tapecache/ops/reduce.h"

namespace tapecache::testing {

using gradcache::ChunkSizes;
using gradcache::Encoded;
using gradcache::Loss;
using gradcache::MemoryPlan;
using gradcache::Representations;
using gradcache::StepOptions;
using gradcache::Tower;

/// Draws of one case: everything follows from its seed.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : engine_(seed) {}
  std::int64_t between(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(high - low + 1));
  }
  bool chance(int percent) { return between(1, 100) <= percent; }
  std::uint64_t seed() { return engine_(); }

 private:
  std::mt19937_64 engine_;
};

inline Variable activate(std::int64_t kind, const Variable& x) {
  switch (kind) {
    case 0:
      return ops::tanh(x);
    case 1:
      return ops::gelu(x);
    case 2:
      return ops::quick_gelu(x);
    case 3:
      return ops::silu(x);
    default:
      return ops::sigmoid(x);
  }
}

/// A chain of random layers over samples [batch, in] or [batch, tokens, in].
struct RandomEncoder {
  struct Layer {
    Parameter weight, bias, gamma, beta;
    std::int64_t activation = 0;
    double dropout = 0;
    bool residual = false, checkpoint = false;
  };
  std::vector<Layer> layers;
  bool normalise = true, second_output = false, auxiliary = false;

  RandomEncoder(Dice& dice, std::int64_t in, std::int64_t out, DType dtype) {
    const std::int64_t depth = dice.between(1, 4);
    std::int64_t width = in;
    for (std::int64_t i = 0; i < depth; ++i) {
      const std::int64_t next = i + 1 == depth ? out : dice.chance(40) ? width : dice.between(2, 9);
      const std::string n = std::to_string(i);
      Layer layer{Parameter("weight" + n, random_values({next, width}, dice.seed(), dtype)), {}, {}, {}};
      if (dice.chance(70)) layer.bias = Parameter("bias" + n, random_values({next}, dice.seed(), dtype));
      if (dice.chance(40)) {
        layer.gamma = Parameter("gamma" + n, random_values({next}, dice.seed(), dtype));
        layer.beta = Parameter("beta" + n, random_values({next}, dice.seed(), dtype));
      }
      layer.activation = dice.between(0, 4);
      layer.dropout = dice.chance(50) ? 0.1 * static_cast<double>(dice.between(1, 5)) : 0;
      layer.residual = next == width && dice.chance(50);
      layer.checkpoint = dice.chance(20);
      if (dice.chance(10)) layer.weight.set_requires_gradient(false);
      layers.push_back(std::move(layer));
      width = next;
    }
    normalise = dice.chance(70);
    second_output = dice.chance(20);
    auxiliary = dice.chance(25);
  }

  static Variable apply(const Layer& layer, const Variable& x) {
    const auto f = [&layer](const Variable& in) {
      Variable y = activate(layer.activation, layer.bias.defined() ? ops::linear(in, layer.weight, layer.bias)
                                                                   : ops::linear(in, layer.weight));
      if (layer.gamma.defined()) y = ops::layer_norm(y, layer.gamma, layer.beta);
      y = ops::dropout(y, layer.dropout);
      return layer.residual ? ops::add(in, y) : y;
    };
    if (!layer.checkpoint) return f(x);
    return checkpoint([f](std::span<const Variable> in) { return std::vector{f(in[0])}; }, std::span(&x, 1)).front();
  }

  Encoded operator()(const Tensor& samples) const {
    Variable x = samples;
    for (const Layer& layer : layers) x = apply(layer, x);
    if (x.rank() == 3) x = ops::mean(x, 1);
    Encoded encoded{{{"main", normalise ? ops::l2_normalize(x) : x}}};
    if (second_output) encoded.outputs.push_back({"second", ops::tanh(x)});
    if (auxiliary) encoded.auxiliary.push_back({"size", ops::mean(ops::multiply(x, x), 1), 0.4});
    return encoded;
  }
};

inline std::vector<Tensor> cut_at_random(Dice& dice, const Tensor& samples) {
  std::vector<Tensor> parts;
  for (std::int64_t begin = 0; begin < samples.size(0);) {
    const std::int64_t end = std::min(samples.size(0), begin + dice.between(1, 7));
    parts.push_back(samples.slice(begin, end));
    begin = end;
  }
  return parts;
}

/// A step of random towers, cuts, types, losses and options: everything follows from its seed.
struct RandomStep {
  std::vector<Tower> towers;
  std::vector<std::pair<Tensor, RandomEncoder>> inputs;  // what the towers are made of
  Loss loss;
  StepOptions options;
  DType dtype;

  explicit RandomStep(std::uint64_t seed) {
    Dice dice(seed);
    dtype = dice.chance(70) ? DType::kFloat64 : DType::kFloat32;
    const std::int64_t count = dice.between(1, 3), width = dice.between(2, 6);
    const std::int64_t samples = dice.chance(10) ? 1 : dice.between(2, 40);
    const std::int64_t negatives = count == 2 && dice.chance(25) ? dice.between(1, 3) : 0;
    const bool reproducible = dice.chance(25);
    const std::int64_t block = dice.chance(50) ? dice.between(1, 12) : 8;
    if (reproducible) options.reproducible_block = block;
    options.scale = dice.chance(30) ? 0.5 * static_cast<double>(dice.between(1, 9)) : 1;
    if (dice.chance(20))
      options.scale = Tensor::full({}, 0.25 * static_cast<double>(dice.between(1, 9)), DType::kFloat64);
    options.check_recompute = dice.chance(30);
    const std::int64_t in = dice.between(1, 7);
    const RandomEncoder shared(dice, in, width, dtype);
    const bool tied = dice.chance(30);
    std::vector<std::int64_t> sizes;
    std::vector<std::string> names;
    for (std::int64_t t = 0; t < count; ++t) {
      const RandomEncoder encoder = tied ? shared : RandomEncoder(dice, in, width, dtype);
      const std::int64_t own = t == 1 ? samples * (1 + negatives) : samples;
      const Shape shape = dice.chance(30) ? Shape{own, dice.between(1, 4), in} : Shape{own, in};
      const Tensor x = random_values(shape, dice.seed(), dtype);
      const std::string name = "tower" + std::to_string(t);
      names.push_back(name + ".main");
      inputs.emplace_back(x, encoder);
      if (dice.chance(15)) towers.push_back(Tower::from_chunks(name, cut_at_random(dice, x), encoder));
      else towers.push_back(Tower(name, x, encoder));
      const std::int64_t chunk = dice.between(1, own + 1);
      sizes.push_back(reproducible ? block * ((chunk + block - 1) / block) : chunk);
    }
    // Only with sums in one order: elsewhere a last bit may decide how an operand is rounded to bf16.
    if (reproducible && dtype == DType::kFloat32 && dice.chance(50)) options.autocast = DType::kBFloat16;
    if (dice.chance(40)) options.cut = MemoryPlan{sizes, dice.between(0, 12)};
    else options.cut = ChunkSizes(sizes);
    make_loss(dice, names, negatives, width);
  }

  double tolerance() const { return dtype == DType::kFloat64 ? 1e-12 : 2e-5; }

  void make_loss(Dice& dice, const std::vector<std::string>& names, std::int64_t negatives, std::int64_t width) {
    const Parameter scale("scale", Tensor::full({}, 0.3 * static_cast<double>(dice.between(1, 8)), dtype));
    const Parameter bias("bias", Tensor::full({}, -1.0, dtype));
    const Parameter target("target", random_values({1, width}, dice.seed(), dtype));
    const std::int64_t kind = negatives > 0 ? 4 * dice.between(0, 1) : dice.between(0, 7);
    const double smoothing = dice.chance(30) ? 0.1 : 0, hardness = dice.chance(30) ? 0.5 : 0;
    const ops::TileOptions tile{dice.between(1, 20), dice.between(1, 20)};
    loss = [=](const Representations& r) {
      const losses::Scale log = losses::Scale::from_log(scale);
      Variable total;
      for (std::size_t t = 0; t < names.size(); ++t) {
        const Variable& a = r.at(names[t]);
        const Variable b =
            names.size() == 1 ? ops::tanh(ops::multiply(a, target)) : r.at(names[(t + 1) % names.size()]);
        if (negatives > 0 && t == 1) break;
        const Variable part = kind == 0   ? losses::info_nce(a, b, {scale, smoothing, hardness})
                              : kind == 1 ? losses::clip_loss(a, b, {log, smoothing, hardness})
                              : kind == 2 ? losses::siglip_loss(a, b, {.scale = log, .bias = bias})
                              : kind == 3 ? ops::mean(ops::mean(ops::exp(ops::multiply(a, b)), 1), 0)
                              : kind == 4 ? losses::info_nce(a, b, {.scale = scale, .tiles = tile})
                              : kind == 5 ? losses::clip_loss(a, b, {.scale = log, .tiles = tile})
                              : kind == 6 ? losses::siglip_loss(a, b, {.scale = log, .bias = bias, .tiles = tile})
                                          : losses::nt_xent(a, b, {.scale = scale});
        total = total.defined() ? ops::add(total, part) : part;
      }
      return total;
    };
  }
};

}  // namespace tapecache::testing
