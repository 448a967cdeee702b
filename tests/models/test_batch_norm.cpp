#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "folder.h"
#include "model_checks.h"
#include "tapecache/autograd/function.h"
#include "tapecache/core/error.h"
#include "tapecache/core/forward_context.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/core/random.h"
#include "tapecache/gradcache/grad_cache.h"
#include "tapecache/losses/losses.h"
#include "tapecache/models/layers.h"
#include "tapecache/models/pretrained.h"
#include "tapecache/ops/normalize.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

namespace {

struct Averages {
  std::vector<double> mean, variance;  // of each channel
};

/// Mean and biased variance of each channel of [outer, channels, …].
Averages naive_statistics(const Tensor& x) {
  const std::int64_t channels = x.size(1), inner = x.shape().product(2, x.rank()), count = x.size(0) * inner;
  const std::vector<double> values = doubles(x);
  Averages s{std::vector<double>(static_cast<std::size_t>(channels)), {}};
  s.variance = s.mean;
  const auto channel = [&](std::size_t i) {
    return static_cast<std::size_t>(static_cast<std::int64_t>(i) / inner % channels);
  };
  for (std::size_t i = 0; i < values.size(); ++i) s.mean[channel(i)] += values[i] / static_cast<double>(count);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double difference = values[i] - s.mean[channel(i)];
    s.variance[channel(i)] += difference * difference / static_cast<double>(count);
  }
  return s;
}

Averages averages_of(const BatchNorm& norm) { return {doubles(norm.running_mean), doubles(norm.running_var)}; }

void check_averages(const BatchNorm& norm, const Averages& expected, double tolerance = 0) {
  BOOST_TEST(max_difference(doubles(norm.running_mean), expected.mean) <= tolerance);
  BOOST_TEST(max_difference(doubles(norm.running_var), expected.variance) <= tolerance);
}

/// Linear, batch norm, relu, linear.
struct Encoder {
  explicit Encoder(const Builder& builder)
      : first(builder.child("fc1"), 6, 5, Init::normal(0.5)),
        norm(builder.child("norm"), 5),
        second(builder.child("fc2"), 5, 4, Init::normal(0.5)) {}

  Variable operator()(const Variable& x) const { return second(ops::activate(ops::Activation::kRelu, norm(first(x)))); }

  Linear first;
  BatchNorm norm;
  Linear second;
};

}  // namespace

BOOST_AUTO_TEST_SUITE(batch_norm_layer)

BOOST_AUTO_TEST_CASE(statistics_against_plain_loops) {
  for (const Shape& shape : {Shape{7, 3}, Shape{5000, 3}, Shape{3, 4, 5}, Shape{9, 2, 40, 50}, Shape{1, 2, 20'000}}) {
    BOOST_TEST_CONTEXT(to_string(shape)) {
      for (const double offset : {0.0, 1000.0}) {
        std::vector<double> values = doubles(random_values(shape, 3));
        for (double& v : values) v = static_cast<double>(static_cast<float>(v + offset));
        for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
          const Tensor x = Tensor::from(values, shape).to(dtype);
          const Tensor one = Tensor::full({shape[1]}, 1, dtype);
          const ops::BatchNormalized found = ops::batch_norm(x, one, one);
          const Averages expected = naive_statistics(x);
          const double tolerance = dtype == DType::kFloat64 ? 1e-12 : 1e-6;
          BOOST_TEST(max_difference(doubles(found.mean), expected.mean) <= tolerance);
          // Twice the mean's rounding enters, squared: it is small beside a variance of a third.
          BOOST_TEST(max_difference(doubles(found.variance), expected.variance) <= (offset == 0 ? tolerance : 1e-6));
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(statistics_do_not_depend_on_the_thread_count) {
  const int threads = thread_count();
  const Tensor x = random_values({3001, 37}, 4, DType::kFloat32), one = Tensor::full({37}, 1);
  std::vector<ops::BatchNormalized> found;
  for (const int count : {1, 2, 4}) {
    set_thread_count(count);
    found.push_back(ops::batch_norm(x, one, one));
  }
  set_thread_count(threads);
  for (const ops::BatchNormalized& other : found) {
    BOOST_TEST(same_bits(other.mean, found[0].mean));
    BOOST_TEST(same_bits(other.variance, found[0].variance));
  }
}

BOOST_AUTO_TEST_CASE(nan_is_not_hidden) {
  const Tensor one = Tensor::full({2}, 1, DType::kFloat64);
  const Tensor x = Tensor::from<double>({1, 2, std::numeric_limits<double>::quiet_NaN(), 4, 5, 7}, {3, 2});
  const ops::BatchNormalized found = ops::batch_norm(x, one, one);
  BOOST_TEST(std::isnan(doubles(found.mean)[0]));
  BOOST_TEST(std::isnan(doubles(found.variance)[0]));
  BOOST_TEST(std::isnan(doubles(found.y.value())[0]));
  BOOST_TEST(std::isfinite(doubles(found.y.value())[1]));
}

BOOST_AUTO_TEST_CASE(running_averages_against_plain_loops) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
    for (const Shape& shape : {Shape{6, 3}, Shape{2, 3, 4, 5}}) {
      const BatchNorm norm(Builder(1, dtype), 3, 0.25);
      Averages expected{{0, 0, 0}, {1, 1, 1}};
      const double count = static_cast<double>(shape.numel() / 3);
      for (std::uint64_t step = 1; step <= 4; ++step) {
        const Tensor x = random_values(shape, step, dtype);
        values_of([&] { return norm(x); });
        const Averages batch = naive_statistics(x);
        for (std::size_t k = 0; k < 3; ++k) {
          expected.mean[k] = 0.75 * expected.mean[k] + 0.25 * batch.mean[k];
          expected.variance[k] = 0.75 * expected.variance[k] + 0.25 * batch.variance[k] * count / (count - 1);
        }
      }
      check_averages(norm, expected, dtype == DType::kFloat64 ? 1e-14 : 1e-6);
    }
  }
}

BOOST_AUTO_TEST_CASE(outside_training_each_sample_depends_on_itself_alone) {
  const Builder builder(1, DType::kFloat64);
  const BatchNorm norm(builder, 3);
  shake(builder.parameters(), 10);
  const Tensor x = random_values({6, 3}, 1);
  const Tensor in_training = values_of([&] { return norm(x); });
  const Averages averages = averages_of(norm);
  builder.set_training(false);
  const Tensor y = values_of([&] { return norm(x); });
  BOOST_TEST(max_difference(y, in_training) > 1e-2);
  for (std::int64_t i = 0; i < 6; ++i) {
    BOOST_TEST(same_bits(values_of([&] { return norm(x.slice(i, i + 1)); }), y.slice(i, i + 1).clone()));
    for (std::size_t k = 0; k < 3; ++k) {
      const std::size_t at = static_cast<std::size_t>(i) * 3 + k;
      const double expected = (doubles(x)[at] - averages.mean[k]) / std::sqrt(averages.variance[k] + 1e-5) *
                                  doubles(norm.weight.value())[k] +
                              doubles(norm.bias.value())[k];
      BOOST_TEST(std::abs(doubles(y)[at] - expected) <= 1e-12);
    }
  }
  check_averages(norm, averages);
}

BOOST_AUTO_TEST_CASE(averages_move_once_under_activation_checkpointing) {
  const auto run = [](bool checkpointed, const Builder& builder) {
    const Encoder encoder(builder);
    const Tensor x = random_values({8, 6}, 2);
    run_backward([&]() -> Variable {
      if (!checkpointed) return encoder(x);
      const Variable input(x);
      const auto recompute = [encoder](std::span<const Variable> in) { return std::vector<Variable>{encoder(in[0])}; };
      return checkpoint(recompute, std::span(&input, 1)).front();
    });
    return averages_of(encoder.norm);
  };
  const Builder plain(3, DType::kFloat64), again(3, DType::kFloat64);
  const Averages expected = run(false, plain), found = run(true, again);
  check_equal(found.mean, expected.mean);
  check_equal(found.variance, expected.variance);
  BOOST_TEST(expected.mean[0] != 0.0);
  for (std::size_t i = 0; i < plain.parameters().size(); ++i) {
    BOOST_TEST(same_bits(plain.parameters()[i].gradient(), again.parameters()[i].gradient()));
  }
}

BOOST_AUTO_TEST_CASE(a_part_of_a_batch_is_refused) {
  const Builder builder(3, DType::kFloat64);
  Encoder encoder(builder.child("image"));
  const Tensor x = random_values({8, 6}, 2);
  values_of([&] { return encoder(x); });
  const Averages before = averages_of(encoder.norm);
  for (const bool recompute : {false, true}) {
    const ScopedValue part(forward_context(), {.recompute = recompute, .partial_batch = true});
    BOOST_CHECK_EXCEPTION(
        encoder(x), ValueError,
        says({"'image.norm'", "statistics of a chunk are not those of the batch", "freeze_statistics", "layer norm"}));
  }
  check_averages(encoder.norm, before);

  const ScopedValue part(forward_context(), {.recompute = false, .partial_batch = true});
  builder.set_training(false);
  const Tensor evaluated = values_of([&] { return encoder(x); });
  builder.set_training(true);
  encoder.norm.freeze_statistics();
  BOOST_TEST(same_bits(values_of([&] { return encoder(x); }), evaluated));
  check_averages(encoder.norm, before);
}

BOOST_AUTO_TEST_CASE(frozen_statistics_leave_weight_and_bias_to_be_learned) {
  const Builder builder(3, DType::kFloat64);
  Encoder encoder(builder);
  const Encoder copy = encoder;
  values_of([&] { return encoder(random_values({8, 6}, 2)); });
  const Averages before = averages_of(encoder.norm);
  encoder.norm.freeze_statistics();  // of the copy too
  run_backward([&] { return copy(random_values({5, 6}, 4)); });
  check_averages(encoder.norm, before);
  for (const Parameter& p : builder.parameters()) BOOST_TEST(p.gradient().defined(), p.name());
  encoder.norm.freeze_statistics(false);
  values_of([&] { return copy(random_values({5, 6}, 4)); });
  BOOST_TEST(doubles(encoder.norm.running_mean)[0] != before.mean[0]);
}

BOOST_AUTO_TEST_CASE(cached_step_equals_direct_step_with_frozen_statistics) {
  const Builder builder(5, DType::kFloat64);
  Encoder image(builder.child("image")), text(builder.child("text"));
  shake(builder.parameters(), 20);
  for (Encoder* encoder : {&image, &text}) {
    values_of([&] { return (*encoder)(random_values({8, 6}, 2)); });
    encoder->norm.freeze_statistics();
  }
  const Parameter log_scale = builder.parameter("logit_scale", {}, Init::constant(1));
  const std::vector<gradcache::Tower> towers{
      {"image", random_values({7, 6}, 8), [image](const Tensor& x) { return image(x); }},
      {"text", random_values({7, 6}, 9), [text](const Tensor& x) { return text(x); }}};
  const gradcache::Loss loss = [&](std::span<const Variable> r) {
    return losses::clip_loss(r[0], r[1], {.scale = losses::Scale::from_log(log_scale)});
  };
  for (const std::int64_t chunk : {1, 3, 7}) {
    BOOST_TEST(gradcache::compare(towers, loss, {{chunk}}, builder.parameters()).relative_norm <= 1e-12);
  }
}

BOOST_AUTO_TEST_CASE(buffers_are_saved_and_loaded_with_weights) {
  const Folder folder;
  const auto path = folder / "w.safetensors";
  const Builder saved(3, DType::kFloat64), loaded(4, DType::kFloat32), other(5, DType::kFloat64);
  const Encoder from(saved), to(loaded);
  values_of([&] { return from(random_values({8, 6}, 2)); });
  save_weights(path, saved);
  load_weights(path, loaded);
  check_averages(to.norm, averages_of(from.norm), 1e-7);
  for (std::size_t i = 0; i < saved.parameters().size(); ++i) {
    BOOST_TEST(max_difference(loaded.parameters()[i].value(), saved.parameters()[i].value()) <= 1e-7);
  }
  saved.set_training(false);
  loaded.set_training(false);
  const Tensor x = random_values({3, 6}, 7);
  BOOST_TEST(max_difference(values_of([&] { return to(x.to(DType::kFloat32)); }), values_of([&] { return from(x); })) <=
             1e-5);

  // Parameters alone are not the whole model.
  BOOST_CHECK_EXCEPTION(load_weights(path, saved.parameters()), FileError, says({"'norm.running_mean'"}));
  save_weights(path, saved.parameters());
  const Averages before = averages_of(to.norm);
  BOOST_CHECK_EXCEPTION(load_weights(path, loaded), FileError, says({"'norm.running_var' is missing"}));
  check_averages(to.norm, before);
}

BOOST_AUTO_TEST_CASE(what_cannot_be_built) {
  const Builder builder(1);
  BOOST_CHECK_EXCEPTION(BatchNorm(builder.child("a"), 0), ValueError, says({"'a'", "0 channels"}));
  for (const double momentum : {-0.1, 1.5, std::numeric_limits<double>::quiet_NaN()}) {
    BOOST_CHECK_EXCEPTION(BatchNorm(builder.child("a"), 2, momentum), ValueError, says({"'a'", "momentum"}));
  }
  for (const double epsilon :
       {0.0, -1.0, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    BOOST_CHECK_EXCEPTION(BatchNorm(builder.child("a"), 2, 0.1, epsilon), ValueError,
                          says({"'a'", "epsilon", "above 0"}));
  }
  BOOST_TEST(builder.parameters().empty());
  const BatchNorm norm(builder.child("a"), 2);
  BOOST_TEST(builder.buffers().size() == 2u);
  BOOST_TEST(builder.buffers()[1].name == "a.running_var");
  BOOST_CHECK_EXCEPTION(builder.buffer("a.weight", Tensor::zeros({2})), ValueError, says({"'a.weight'"}));
  BOOST_CHECK_EXCEPTION(builder.buffer("a.running_mean", Tensor::zeros({2})), ValueError, says({"'a.running_mean'"}));
  BOOST_CHECK_EXCEPTION(builder.parameter("a.running_mean", {2}, {}), ValueError, says({"'a.running_mean'"}));
  BOOST_CHECK_EXCEPTION(builder.buffer("ids", Tensor::zeros({2}, DType::kInt64)), DTypeError, says({"'ids'", "int64"}));
  BOOST_CHECK_EXCEPTION(norm(Tensor::zeros({1, 2})), ShapeError, says({"[1, 2]", "at least 2"}));
  check_averages(norm, {{0, 0}, {1, 1}});
}

BOOST_AUTO_TEST_SUITE_END()
