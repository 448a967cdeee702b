#include "op_costs.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "../timing.h"
#include "../train_step/training.h"
#include "measure.h"
#include "tapecache/autograd/modes.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/losses/losses.h"
#include "tapecache/models/transformer_block.h"
#include "tapecache/ops/attention.h"
#include "tapecache/ops/gemm.h"
#include "tapecache/ops/reduce.h"

namespace bench_gpu {

using namespace tapecache;
using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

namespace {

double since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

/// What is timed: an op over leaves, and what it reads beside them.
struct Part {
  std::vector<Tensor> inputs;  ///< that get a gradient
  std::vector<Parameter> parameters;
  std::function<Variable(const std::vector<Variable>&)> forward;
  double flops = 0;             ///< of the forward's products; backward has twice as many
  std::size_t other_bytes = 0;  ///< that the forward reads besides
  int repeats = 4;
};

struct Pass {
  std::vector<double> seconds, host_seconds;

  template <class Work>
  void time(int repeats, const Work& work) {
    const auto begin = Clock::now();
    for (int i = 0; i < repeats; ++i) work(i);
    host_seconds.push_back(since(begin) / repeats);
    kDevice.synchronize();
    seconds.push_back(since(begin) / repeats);
  }
  Json figures(double flops, double bytes, const Ceilings& ceilings) const {
    const double median = Timings::median(seconds);
    return {{"seconds", median},
            {"host_seconds", Timings::median(host_seconds)},
            {"flops", flops},
            {"least_bytes", bytes},
            {"gemm_share", flops / median / ceilings.flops},
            {"copy_share", bytes / median / ceilings.bytes}};
  }
};

constexpr int kRounds = 3;

std::size_t bytes_of(const std::vector<Tensor>& tensors) {
  std::size_t bytes = 0;
  for (const Tensor& t : tensors) bytes += t.bytes();
  return bytes;
}

Json cost(const Part& part, const Ceilings& ceilings) {
  const auto repeats = static_cast<std::size_t>(part.repeats);
  Pass forward, backward;
  Tensor seed;
  std::size_t weights = 0;
  for (const Parameter& p : part.parameters) weights += p.value().bytes();
  for (int round = -1; round < kRounds; ++round) {
    std::vector<std::unique_ptr<Tape>> tapes(repeats);
    std::vector<Variable> outputs(repeats);
    std::vector<std::vector<Variable>> leaves(repeats);
    for (std::size_t i = 0; i < repeats; ++i) {
      tapes[i] = std::make_unique<Tape>();
      for (const Tensor& input : part.inputs) leaves[i].push_back(tapes[i]->leaf(input));
    }
    Pass discarded;
    kDevice.synchronize();
    (round < 0 ? discarded : forward).time(part.repeats, [&](int i) {
      const Recording recording(*tapes[i]);
      const Autocast autocast(DType::kBFloat16);
      outputs[i] = part.forward(leaves[i]);
    });
    if (!seed.defined()) {
      const Tensor& y = outputs.front().value();
      seed = random_tensor(y.shape(), 7, y.dtype());
      kDevice.synchronize();
    }
    (round < 0 ? discarded : backward).time(part.repeats, [&](int i) {
      tapes[i]->backward({&outputs[i], 1}, {&seed, 1});
    });
  }
  const auto read = static_cast<double>(bytes_of(part.inputs) + part.other_bytes + weights);
  // Gradients of weights are added to: read and written.
  return {{"forward", forward.figures(part.flops, read + static_cast<double>(seed.bytes()), ceilings)},
          {"backward",
           backward.figures(2 * part.flops,
                            read + static_cast<double>(seed.bytes() + bytes_of(part.inputs) + 2 * weights), ceilings)}};
}

/// A kernel alone, of `flops`, over tensors of so many bytes.
Json kernel_cost(const Ceilings& ceilings, double flops, std::size_t bytes, const std::function<void()>& work) {
  constexpr int kRepeats = 8;
  Pass pass, discarded;
  for (int round = -1; round < kRounds; ++round) {
    (round < 0 ? discarded : pass).time(kRepeats, [&](int) { work(); });
  }
  return pass.figures(flops, static_cast<double>(bytes), ceilings);
}

/// The three products of a linear map of bf16 rows [rows, in] to [rows, out], with results of the types they have in a
/// block.
Json products(std::int64_t rows, std::int64_t in, std::int64_t out, DType y_type, DType dx_type,
              const Ceilings& ceilings) {
  const Tensor x = random_tensor({rows, in}, 1, DType::kBFloat16), w = random_tensor({out, in}, 2, DType::kBFloat16);
  const Tensor dy = random_tensor({rows, out}, 3, DType::kBFloat16);
  const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(in) * static_cast<double>(out);
  const auto product = [&](kernels::Gemm shape, const Tensor& a, const Tensor& b, DType type, kernels::Mode mode) {
    Tensor c = Tensor::zeros({shape.m, shape.n}, type, kDevice);
    return kernel_cost(ceilings, flops, a.bytes() + b.bytes() + c.bytes(),
                       [&] { ops::detail::gemm("products", shape, a, b, {}, {}, c, mode); });
  };
  return {{"y", product({1, rows, out, in, false, true}, x, w, y_type, kernels::Mode::kWrite)},
          {"dx", product({1, rows, in, out, false, false}, dy, w, dx_type, kernels::Mode::kWrite)},
          {"dw", product({1, out, in, rows, true, false}, dy, x, DType::kFloat32, kernels::Mode::kAccumulate)}};
}

std::vector<Parameter> joined(std::initializer_list<std::vector<Parameter>> lists) {
  std::vector<Parameter> all;
  for (const auto& list : lists) all.insert(all.end(), list.begin(), list.end());
  return all;
}

}  // namespace

Json block_costs(const BlockSize& s, const Ceilings& ceilings) {
  const std::int64_t rows = s.samples * s.tokens, wide = 4 * s.width;
  const double n = static_cast<double>(rows), w = static_cast<double>(s.width), t = static_cast<double>(s.tokens);
  const models::TransformerConfig config{
      .width = s.width, .layers = 1, .heads = s.heads, .mlp_width = wide, .activation = ops::Activation::kQuickGelu};
  const models::Builder norms(1), attention_builder(2), mlp(3), block_builder(4);
  const models::Init init = models::Init::normal(0.02);
  const models::LayerNorm norm1(norms.child("norm1"), s.width), norm2(norms.child("norm2"), s.width);
  const models::MultiHeadAttention attention(attention_builder, s.width, s.heads, init, init);
  const models::Linear fc1(mlp.child("fc1"), s.width, wide, init), fc2(mlp.child("fc2"), wide, s.width, init);
  const models::TransformerBlock block(block_builder, config);
  for (const models::Builder* b : {&norms, &attention_builder, &mlp, &block_builder}) b->to(kDevice);
  const ops::AttentionOptions options{.causal = s.causal, .valid = {}};
  constexpr auto kNoNorm = ops::KeepNorm::kNo;

  const Tensor x = random_tensor({s.samples, s.tokens, s.width}, 1);
  // Of the types that one part hands the next.
  Tensor qkv, hidden;
  {
    const Autocast autocast(DType::kBFloat16);
    qkv = attention.project(norm1, x, kNoNorm).y.value();
    hidden = fc1.after(norm2, x, kNoNorm).y.value();
  }
  const std::vector<Parameter>& weights = attention_builder.parameters();
  const std::vector<Parameter> in_weights(weights.begin(), weights.begin() + 6);
  const std::vector<Parameter> out_weights(weights.begin() + 6, weights.end());
  const std::vector<Parameter> n1{norm1.weight, norm1.bias}, n2{norm2.weight, norm2.bias};
  const auto of = [&](Part part) { return cost(part, ceilings); };

  Json costs{
      {"samples", s.samples}, {"tokens", s.tokens}, {"width", s.width}, {"heads", s.heads}, {"causal", s.causal}};
  costs["block"] = of({{x},
                       block_builder.parameters(),
                       [&](const auto& v) { return block(v[0], options); },
                       n * (24 * w * w + 4 * w * t)});
  costs["norm1_qkv"] = of({{x},
                           joined({n1, in_weights}),
                           [&](const auto& v) { return attention.project(norm1, v[0], kNoNorm).y; },
                           n * 6 * w * w});
  costs["attention"] =
      of({{qkv}, {}, [&](const auto& v) { return ops::attention(v[0], s.heads, options); }, n * 4 * w * t});
  costs["attention_out_residual"] = of({{qkv, x},
                                        out_weights,
                                        [&](const auto& v) { return attention.attend(v[0], options, v[1]); },
                                        n * (2 * w * w + 4 * w * t)});
  costs["norm2_fc1"] = of({{x},
                           joined({n2, {fc1.weight, fc1.bias}}),
                           [&](const auto& v) { return fc1.after(norm2, v[0], kNoNorm).y; },
                           n * 8 * w * w});
  costs["activation_fc2_residual"] = of({{hidden, x},
                                         {fc2.weight, fc2.bias},
                                         [&](const auto& v) { return fc2.after(config.activation, v[0], v[1]); },
                                         n * 8 * w * w});
  costs["layer_norm"] = of({{x}, n1, [&](const auto& v) { return norm1(v[0]); }});
  costs["addition"] = of({{x, x.clone()}, {}, [&](const auto& v) { return ops::add(v[0], v[1]); }});

  Json alone;
  constexpr DType kLow = DType::kBFloat16, kFull = DType::kFloat32;
  alone["qkv"] = products(rows, s.width, 3 * s.width, kLow, kFull, ceilings);
  alone["out"] = products(rows, s.width, s.width, kFull, kLow, ceilings);
  alone["fc1"] = products(rows, s.width, wide, kLow, kFull, ceilings);
  alone["fc2"] = products(rows, wide, s.width, kFull, kLow, ceilings);
  costs["products_alone"] = alone;
  const Tensor z = random_tensor({rows, wide}, 4, kLow);
  Tensor activated = random_tensor({rows, wide}, 6, kLow);
  using Low = kernels::UnaryKernels<BFloat16>;
  const auto activation = kernels::find(&Low::unary, "activation", kDevice);
  const auto derivative = kernels::find(&Low::unary_backward, "activation", kDevice);
  constexpr auto kQuickGelu = kernels::UnaryOp::kQuickGelu;
  costs["activation"] = {
      {"forward",
       kernel_cost(ceilings, 0, 2 * z.bytes(),
                   [&] { activation(kQuickGelu, z.numel(), z.data<BFloat16>(), activated.mutable_data<BFloat16>()); })},
      {"backward", kernel_cost(ceilings, 0, 3 * z.bytes(), [&] {
         derivative(kQuickGelu, z.numel(), z.data<BFloat16>(), activated.data<BFloat16>(),
                    activated.mutable_data<BFloat16>(), kernels::Mode::kWrite);
       })}};
  const Tensor dy = random_tensor({rows, wide}, 5);
  costs["rounding_to_bf16"] = kernel_cost(ceilings, 0, dy.bytes() + dy.bytes() / 2, [&] { dy.to(DType::kBFloat16); });
  costs["sum_of_rows"] = kernel_cost(ceilings, 0, dy.bytes(), [&] { ops::sum(dy, 0); });
  return costs;
}

Json model_costs(train_step::ClipSize size, std::int64_t batch, std::int64_t chunk, const Ceilings& ceilings) {
  const models::ClipConfig config = train_step::clip_config(size);
  const train_step::TowerFlops flops = train_step::forward_flops(config, chunk);
  models::Clip clip(config, 1);
  clip.to(kDevice);
  const Tensor images = random_tensor({chunk, 3, config.vision.image_size, config.vision.image_size}, 1);
  std::vector<std::int64_t> places(static_cast<std::size_t>(chunk * config.text.max_tokens));
  for (std::size_t i = 0; i < places.size(); ++i)
    places[i] = static_cast<std::int64_t>(i * 7919) % config.text.vocabulary;
  const Tensor ids = Tensor::from(places, {chunk, config.text.max_tokens}).to(kDevice);
  const auto of = [&](Part part) {
    part.repeats = 1;
    return cost(part, ceilings);
  };
  std::vector<Parameter> vision, text;
  for (const Parameter& p : clip.parameters()) {
    if (p.name().starts_with("vis")) vision.push_back(p);  // vision_model, visual_projection
    if (p.name().starts_with("text")) text.push_back(p);
  }
  Json costs{{"batch", batch}, {"chunk", chunk}};
  costs["image_chunk"] =
      of({{}, vision, [&](const auto&) { return clip.encode_image(images); }, flops.image, images.bytes()});
  costs["text_chunk"] = of({{},
                            text,
                            [&](const auto&) {
                              return clip.encode_text({ids, {}});
                            },
                            flops.text,
                            ids.bytes()});
  const auto rep = [&](std::uint32_t state) { return random_tensor({batch, config.projection_width}, state); };
  const double pairs = static_cast<double>(batch) * static_cast<double>(batch);
  costs["loss"] = of({{rep(1), rep(2)},
                      {clip.logit_scale()},
                      [&](const auto& v) {
                        const Autocast full(DType::kFloat32);
                        return losses::clip_loss(v[0], v[1], {.scale = losses::Scale::from_log(clip.logit_scale())});
                      },
                      2 * pairs * static_cast<double>(config.projection_width)});
  train::AdamW optimizer(clip.parameters(), train_step::kAdamW);
  std::size_t bytes = 0;
  for (const Parameter& p : clip.parameters()) bytes += 7 * p.value().bytes();  // w, m, v read and written, g read
  costs["update"] = kernel_cost(ceilings, 0, bytes, [&] { optimizer.step(1e-8); });

  const auto seconds = [&](const char* part, const char* pass) { return costs[part][pass]["seconds"].get<double>(); };
  const auto chunks = static_cast<double>((batch + chunk - 1) / chunk);
  double whole = seconds("loss", "forward") + seconds("loss", "backward") + costs["update"]["seconds"].get<double>();
  for (const char* tower : {"image_chunk", "text_chunk"}) {
    whole += chunks * (2 * seconds(tower, "forward") + seconds(tower, "backward"));
  }
  costs["whole_step_seconds"] = whole;
  return costs;
}

std::pair<BlockSize, BlockSize> block_sizes(train_step::ClipSize size, std::int64_t chunk) {
  const models::ClipConfig c = train_step::clip_config(size);
  const std::int64_t side = c.vision.image_size / c.vision.patch_size;
  return {{chunk, side * side + 1, c.vision.encoder.width, c.vision.encoder.heads, false},
          {chunk, c.text.max_tokens, c.text.encoder.width, c.text.encoder.heads, true}};
}

}  // namespace bench_gpu
