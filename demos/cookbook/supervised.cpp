#include <cstdio>
#include <vector>

#include <tapecache/tapecache.h>

using namespace tapecache;

/// A body that may be frozen, and a head over it.
struct Classifier {
  models::Builder builder{/*seed=*/1};
  models::Linear body{builder.child("body"), 2, 32, models::Init::normal(1)};
  models::Linear head{builder.child("head"), 32, 2, models::Init::normal(0.1)};

  Variable operator()(const Variable& x) const { return head(ops::relu(body(x))); }
};

/// Points within and without a circle, and which is which.
struct Points {
  std::vector<float> places;
  std::vector<std::int32_t> classes;

  explicit Points(int count) {
    unsigned state = 1;
    const auto draw = [&] {
      return static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1.0f;
    };
    for (int i = 0; i < count; ++i) {
      const float x = draw(), y = draw();
      places.insert(places.end(), {x, y});
      classes.push_back(x * x + y * y < 0.5f ? 1 : 0);
    }
  }
};

double fit(const Classifier& model, train::Optimizer& optimizer, const Tensor& x, const Tensor& classes, int steps) {
  double last = 0;
  for (int step = 0; step < steps; ++step) {
    begin_random_step(/*seed=*/1, static_cast<std::uint32_t>(step));  // for dropout, where there is some
    Tape tape;
    Variable loss;
    {
      const Recording recording(tape);
      loss = ops::cross_entropy(model(x), classes);
    }
    tape.backward(loss);
    optimizer.step(/*learning_rate=*/1e-2);
    optimizer.clear_gradients();
    last = loss.value().item();
  }
  return last;
}

double share_right(const Classifier& model, const Tensor& x, const Tensor& classes) {
  model.builder.set_training(false);
  const auto logits = model(x).value().to_vector<float>();  // no tape is active: nothing is kept
  model.builder.set_training(true);
  const auto right = classes.to_vector<std::int32_t>();
  int count = 0;
  for (std::size_t i = 0; i < right.size(); ++i) count += (logits[2 * i + 1] > logits[2 * i]) == (right[i] == 1);
  return static_cast<double>(count) / static_cast<double>(right.size());
}

int main() {
  const Points points(1000);
  const Tensor x = Tensor::from(points.places, {1000, 2}), classes = Tensor::from(points.classes, {1000});
  Classifier model;
  train::AdamW optimizer(model.builder.parameters());
  const double loss = fit(model, optimizer, x, classes, 150);
  std::printf("loss below 0.2: %s\n", loss < 0.2 ? "yes" : "no");
  std::printf("more than 95 of 100 right: %s\n", share_right(model, x, classes) > 0.95 ? "yes" : "no");

  // Other labels for the same body: it is frozen, gets no gradients and keeps its bits. A new head learns.
  std::vector<std::int32_t> left;
  for (int i = 0; i < 1000; ++i) left.push_back(points.places[static_cast<std::size_t>(2 * i)] < 0 ? 1 : 0);
  for (Parameter p : {model.body.weight, model.body.bias}) p.set_requires_gradient(false);
  const auto before = model.body.weight.value().to_vector<float>();
  train::AdamW fresh({model.head.weight, model.head.bias});
  const Tensor sides = Tensor::from(left, {1000});
  fit(model, fresh, x, sides, 150);
  std::printf("the new head, more than 95 of 100 right: %s\n", share_right(model, x, sides) > 0.95 ? "yes" : "no");
  std::printf("the frozen body kept its bits: %s\n",
              model.body.weight.value().to_vector<float>() == before ? "yes" : "no");
}
