#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>
#include <vector>

#include <tapecache/tapecache.h>

using namespace tapecache;

/// Stands for an encoder of another library: plain arrays, with gradients and an update of its own. y = x W.
struct TheirEncoder {
  static constexpr int kIn = 8, kOut = 4;
  std::vector<float> weight = std::vector<float>(kIn * kOut), gradient = std::vector<float>(kIn * kOut);

  void forward(const float* x, int rows, float* y) const {
    for (int r = 0; r < rows; ++r) {
      for (int j = 0; j < kOut; ++j) {
        y[r * kOut + j] = 0;
        for (int i = 0; i < kIn; ++i)
          y[r * kOut + j] += x[r * kIn + i] * weight[static_cast<std::size_t>(i * kOut + j)];
      }
    }
  }
  void backward(const float* x, int rows, const float* dy) {
    for (int r = 0; r < rows; ++r) {
      for (int i = 0; i < kIn; ++i) {
        float* row = gradient.data() + i * kOut;
        for (int j = 0; j < kOut; ++j) row[j] += x[r * kIn + i] * dy[r * kOut + j];
      }
    }
  }
  void step(float rate) {
    for (std::size_t i = 0; i < weight.size(); ++i) weight[i] -= rate * gradient[i];
    gradient.assign(gradient.size(), 0.0f);
  }
};

int main() {
  TheirEncoder theirs;
  std::vector<float> values(64 * TheirEncoder::kIn);
  unsigned state = 1;
  const auto draw = [&] { return static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1.0f; };
  for (float& v : theirs.weight) v = draw();
  for (float& v : values) v = draw();
  const Tensor x = Tensor::from(values, {64, TheirEncoder::kIn});

  // The op around it: their forward, and their backward with the gradient of its output.
  const ForeignParameters parameters("theirs");
  const auto encode = [&](const Tensor& chunk) {
    const auto rows = static_cast<int>(chunk.size(0));
    Tensor y = Tensor::empty({chunk.size(0), TheirEncoder::kOut});
    theirs.forward(chunk.data<float>(), rows, y.mutable_data<float>());
    return ops::l2_normalize(parameters.record("theirs", y, [&, chunk, rows](const Tensor& dy) {
      theirs.backward(chunk.data<float>(), rows, dy.data<float>());
    }));
  };
  const models::Builder builder(/*seed=*/4);
  const models::Linear ours(builder, TheirEncoder::kIn, TheirEncoder::kOut, models::Init::normal(0.3));
  const std::vector<gradcache::Tower> towers{
      {"theirs", x, encode}, {"ours", x, [&](const Tensor& chunk) { return ops::l2_normalize(ours(chunk)); }}};
  const gradcache::Loss loss = [](auto r) { return losses::info_nce(r[0], r[1]); };

  gradcache::direct_step(towers, loss);
  const std::vector<float> direct = std::exchange(theirs.gradient, std::vector<float>(theirs.gradient.size()));
  gradcache::cached_step(towers, loss, {.cut = {8}});
  float largest = 0;
  for (std::size_t i = 0; i < direct.size(); ++i) largest = std::max(largest, std::abs(direct[i] - theirs.gradient[i]));
  std::printf("their cached gradient: %s the direct one\n", largest < 1e-5f ? "equal to" : "NOT");

  theirs.gradient.assign(theirs.gradient.size(), 0.0f);
  train::AdamW optimizer(builder.parameters());
  optimizer.clear_gradients();
  double first = 0, last = 0;
  for (int step = 0; step < 100; ++step) {
    last = gradcache::cached_step(towers, loss, {.cut = {8}}).loss.item();
    if (step == 0) first = last;
    theirs.step(0.1f);
    optimizer.step(1e-2);
    optimizer.clear_gradients();
  }
  std::printf("both learn: %s\n", last < first / 2 ? "yes" : "no");
}
