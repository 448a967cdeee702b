#include <cstdio>
#include <vector>

#include <tapecache/tapecache.h>

using namespace tapecache;

int main() {
  const models::Builder builder(/*seed=*/6);
  const models::Linear body(builder.child("body"), 32, 64, models::Init::normal(0.2));
  const models::Linear last(builder.child("last"), 64, 16, models::Init::normal(0.2));
  const std::vector<Parameter> parameters = builder.parameters();
  const std::vector<Parameter> encoder_parameters{body.weight, body.bias}, head_parameters{last.weight, last.bias};

  std::vector<float> values(256 * 32);
  unsigned state = 1;
  for (float& v : values) v = static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1.0f;
  const Tensor x = Tensor::from(values, {256, 32});
  const auto encode = [&](const Tensor& chunk) { return ops::l2_normalize(last(ops::gelu(body(chunk)))); };
  const std::vector<gradcache::Tower> towers{{"once", x, encode}, {"again", (Variable(x) * 0.9f).value(), encode}};
  const gradcache::Loss loss = [](auto r) { return losses::info_nce(r[0], r[1]); };

  train::AdamW head(head_parameters), encoder(encoder_parameters, {.weight_decay = 0.05});
  const train::LossScalerOptions scaling{.initial_scale = 0x1p+28, .max_scale = 0x1p+28};  // too much for f16 at first
  train::LossScaler scaler(scaling);
  gradcache::StepOptions options{.cut = {32}};
  options.autocast = DType::kFloat16;
  double first_loss = 0, last_loss = 0;
  for (int step = 0; step < 60; ++step) {
    options.scale = scaler.scale();
    const auto result = gradcache::cached_step(towers, loss, options);
    const Number non_finite = scaler.unscale(parameters, result.non_finite);
    head.step(1e-3, 1, non_finite);
    encoder.step(1e-4, 1, non_finite);
    head.clear_gradients();
    encoder.clear_gradients();
    scaler.update(non_finite);
    if (step == 0) first_loss = result.loss.item();
    last_loss = result.loss.item();
  }
  const double skipped = scaler.skipped_steps().item();
  std::printf("some steps were skipped, most were not: %s\n", skipped > 0 && skipped < 20 ? "yes" : "no");
  std::printf("the loss fell: %s\n", last_loss < first_loss ? "yes" : "no");

  const std::vector<train::Optimizer*> both{&head, &encoder};
  train::TrainingPosition position{.step = 60, .seed = 1};
  scaler.save(position.notes);
  train::save_checkpoint("run.safetensors", parameters, both, position);

  const auto found = train::load_checkpoint("run.safetensors", parameters, both);
  train::LossScaler resumed(scaling);
  resumed.load(found.notes);
  std::printf("the scale came back: %s\n", resumed.scale().item() == scaler.scale().item() ? "yes" : "no");
}
