#include <cstdio>
#include <vector>

#include <tapecache/tapecache.h>

using namespace tapecache;

int main() {
  models::Builder builder(/*seed=*/1);
  const models::Linear question(builder.child("question"), 32, 16, models::Init::normal(0.1));
  const models::Linear answer(builder.child("answer"), 32, 16, models::Init::normal(0.1));

  std::vector<float> values(512 * 32);
  unsigned state = 1;
  for (float& v : values) v = static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1.0f;
  const Tensor samples = Tensor::from(values, {512, 32});
  const std::vector<gradcache::Tower> towers{
      {"question", samples, [&](const Tensor& x) { return ops::l2_normalize(question(x)); }},
      {"answer", samples, [&](const Tensor& x) { return ops::l2_normalize(answer(x)); }}};
  const gradcache::Loss loss = [](auto r) { return losses::info_nce(r[0], r[1]); };
  const gradcache::StepOptions options{.cut = {32}};  // 512 samples, 32 at a time, 511 negatives each

  const auto difference = gradcache::compare(towers, loss, options, builder.parameters());
  const bool equal = difference.relative_norm < 1e-5;
  std::printf("cached against direct gradient: %s\n", equal ? "equal to rounding" : "NOT EQUAL");

  train::AdamW optimizer(builder.parameters());
  for (int step = 0; step <= 100; ++step) {
    const auto result = gradcache::cached_step(towers, loss, options);
    if (step % 25 == 0) std::printf("step %3d: loss %.2f\n", step, result.loss.item());
    optimizer.step(/*learning_rate=*/1e-2);
    optimizer.clear_gradients();
  }
}
