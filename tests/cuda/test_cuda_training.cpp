#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cuda_device.h"
#include "folder.h"
#include "optimizer_checks.h"
#include "tapecache/autograd/modes.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/random.h"
#include "tapecache/core/value_checks.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/reduce.h"
#include "tapecache/ops/update.h"
#include "tapecache/train/checkpoint.h"
#include "tapecache/train/loss_scaler.h"
#include "tapecache/train/metrics.h"
#include "tapecache/train/optimizer.h"

// What training does beside the forward and backward of a model, on a CUDA device.

using namespace tapecache;
using namespace tapecache::testing;
using namespace tapecache::train;

namespace {

/// What an op gives for x, and for its gradient by a cotangent.
std::vector<Tensor> outcome(const std::function<Variable(const Variable&)>& op, const Tensor& x) {
  Tape tape;
  const Variable leaf = tape.leaf(x);
  Variable y;
  {
    const Recording recording(tape);
    y = op(leaf);
  }
  const Tensor cotangent = random_values(y.shape(), 9, y.dtype()).to(y.device());
  tape.backward(std::span(&y, 1), std::span(&cotangent, 1));
  return {y.value(), tape.gradient(leaf)};
}

}  // namespace

BOOST_AUTO_TEST_SUITE(cuda)

BOOST_AUTO_TEST_CASE(an_optimizers_state_follows_its_parameters, *on_device) {
  for (const MakeOptimizer& make : kOptimizers) {
    const std::vector<Parameter> here = some_parameters(), moved = some_parameters();
    const auto a = make(here), b = make(moved);
    for (int t = 1; t <= 4; ++t) {
      give_gradients(here, t);
      give_gradients(moved, t);
      move(moved, t % 2 == 0 ? kCuda : Device::cpu());
      a->step(0.05);
      b->step(0.05);
    }
    check_alike(moved, here);
    Parameter(moved[0]).mutable_gradient() = here[0].gradient();
    BOOST_CHECK_EXCEPTION(b->step(0.05), ShapeError, says({"'matrix'", "cpu", "cuda:0"}));
  }
}

BOOST_AUTO_TEST_CASE(norms_and_clipping, *on_device) {
  const std::vector<Parameter> here = mixed_parameters(), there = mixed_parameters();
  give_gradients(here, 1);
  give_gradients(there, 1);
  move(there, kCuda);
  const double norm = gradient_norm(here).item(), found = gradient_norm(there).item();
  BOOST_TEST(std::abs(found - norm) <= 1e-13 * norm);
  BOOST_TEST(found == gradient_norm(there).item());
  BOOST_TEST(ops::squared_norm(std::vector<Tensor>{Tensor::zeros({0}, DType::kFloat32, kCuda)}).item() == 0);
  BOOST_TEST(std::abs(clip_gradient_norm(there, 1).item() - norm) <= 1e-13 * norm);
  BOOST_TEST(std::abs(gradient_norm(there).item() - 1) <= 1e-6);
  // More blocks than a kernel of one block sums at once, and values that f32 sums would lose.
  Tensor large = Tensor::full({300, 16384}, 1, DType::kFloat32, kCuda);
  large.slice(0, 1).fill(1e4);
  BOOST_TEST(ops::squared_norm(std::span(&large, 1)).item() == 299.0 * 16384 + 16384 * 1e8);
  Parameter(there[2]).mutable_gradient().fill(std::numeric_limits<double>::quiet_NaN());
  BOOST_TEST(std::isnan(gradient_norm(there).item()));
}

BOOST_AUTO_TEST_CASE(gradients_of_several_devices, *on_device) {
  const std::vector<Parameter> here = mixed_parameters(), apart = mixed_parameters();
  move(std::span(apart).first(2), kCuda);
  give_gradients(here, 1);
  give_gradients(apart, 1);
  const double norm = gradient_norm(here).item();
  BOOST_TEST(std::abs(gradient_norm(apart).item() - norm) <= 1e-13 * norm);
  BOOST_CHECK_EXCEPTION(clip_gradient_norm(apart, 1), DeviceError, says({"clip_to_norm", "cpu", "cuda:0"}));
  BOOST_TEST(std::abs(gradient_norm(apart).item() - norm) <= 1e-13 * norm);
}

BOOST_AUTO_TEST_CASE(draws_have_the_bits_of_the_cpu, *on_device) {
  const std::vector<std::int64_t> order{7, 2, 5'000'000'000, 0, 2, 4};
  for (const bool in_order : {true, false}) {
    const auto begin = [&] {
      begin_random_step(0x123456789, 7);
      random_state().key.call = 3;
      random_state().first_sample = 1000;
      if (!in_order) random_state().sample_ids = Tensor::from(order, {6});
    };
    for (const std::int64_t width : {1, 2, 7, 4096, 5001}) {
      for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
        const Tensor x = random_values({6, width}, 1, dtype);
        for (const auto op : {ops::dropout, ops::drop_path}) {
          const auto drop = [&](const Variable& v) { return begin(), op(v, 0.3); };
          const std::vector<Tensor> here = outcome(drop, x), there = outcome(drop, x.to(kCuda));
          for (std::size_t i = 0; i < here.size(); ++i) {
            BOOST_TEST((there[i].device() == kCuda));
            BOOST_TEST(same_bits(there[i], here[i]));
          }
        }
      }
      begin();
      const Tensor here = ops::sample_uniform(6, width);
      begin();
      BOOST_TEST(same_bits(ops::sample_uniform(6, width, kCuda), here));
    }
  }
  begin_random_step(1, 1);
}

BOOST_AUTO_TEST_CASE(a_dropped_nan_is_dropped, *on_device) {
  const Tensor x = Tensor::full({8, 100}, std::numeric_limits<double>::quiet_NaN());
  for (const auto op : {ops::dropout, ops::drop_path}) {
    begin_random_step(1, 1);
    const std::vector<double> here = doubles(op(x, 0.5).value());
    begin_random_step(1, 1);
    const std::vector<double> there = doubles(op(x.to(kCuda), 0.5).value());
    for (std::size_t i = 0; i < here.size(); ++i) BOOST_REQUIRE(std::isnan(here[i]) == std::isnan(there[i]));
  }
}

/// Indices in runs of the given lengths, row by row, dealt in turn so that equal ones lie apart.
Tensor dealt(const std::vector<std::pair<std::int64_t, std::int64_t>>& rows) {
  std::vector<std::int64_t> index;
  for (std::int64_t turn = 0, before = -1; before != static_cast<std::int64_t>(index.size()); ++turn) {
    before = static_cast<std::int64_t>(index.size());
    for (const auto& [row, length] : rows) {
      if (turn < length) index.push_back(row);
    }
  }
  return Tensor::from(index, {static_cast<std::int64_t>(index.size())});
}

BOOST_AUTO_TEST_CASE(gradients_of_rows_that_are_taken_often, *on_device) {
  // Runs about the length of one and of several pieces; tables whose rows have numbers of one, two and three digits.
  for (const std::int64_t rows : {3, 300, 70'000}) {
    const Tensor index =
        dealt({{0, 63}, {1, 1000}, {2, 128}, {rows - 1, 127}, {rows / 2, 64}, {rows / 3, 191}, {rows / 5, 1}});
    for (const std::int64_t width : {1, 3, 300}) {
      if (rows * width > 1'000'000) continue;
      const auto take = [&](const Variable& table) { return ops::embedding(table, index); };
      const Tensor table = random_values({rows, width}, 1);
      const std::vector<Tensor> here = outcome(take, table), wide = outcome(take, table.to(kCuda)),
                                narrow = outcome(take, table.to(DType::kFloat32).to(kCuda)),
                                again = outcome(take, table.to(DType::kFloat32).to(kCuda));
      BOOST_TEST(same_bits(wide[0], here[0]));
      BOOST_TEST(max_difference(wide[1], here[1]) <= 1e-13);
      BOOST_TEST(max_difference(narrow[1], here[1]) <= 1e-5);
      BOOST_TEST(same_bits(narrow[1], again[1]));
    }
  }
}

BOOST_AUTO_TEST_CASE(pooling_of_equal_values_and_of_nan, *on_device) {
  std::vector<double> values = doubles(random_values({5, 7, 40}, 1));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = i % 97 == 3 ? std::numeric_limits<double>::quiet_NaN() : std::round(2 * values[i]);
  }
  const Tensor x = Tensor::from(values, {5, 7, 40});
  std::vector<double> marks(35, 1);
  for (const std::size_t i : {0, 8, 9, 14, 15, 16, 17, 18, 19, 20, 34}) marks[i] = 0;  // of sample 2 nothing is left
  const Tensor valid = vector_of(marks).reshape({5, 7}).to(DType::kBool);
  for (const auto op : {ops::max_pool, ops::mean_pool}) {
    for (const Tensor& mask : {Tensor(), valid}) {
      const Tensor mask_there = mask.defined() ? mask.to(kCuda) : mask;
      const std::vector<Tensor> here = outcome([&](const Variable&v) { return op(v, mask); }, x),
                                there = outcome([&](const Variable&v) { return op(v, mask_there); }, x.to(kCuda));
      for (std::size_t i = 0; i < here.size(); ++i) {
        const std::vector<double> a = doubles(here[i]), b = doubles(there[i]);
        for (std::size_t k = 0; k < a.size(); ++k) {
          BOOST_REQUIRE((std::abs(a[k] - b[k]) <= 1e-12 || (std::isnan(a[k]) && std::isnan(b[k]))));
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(checkpoints_pass_between_devices, *on_device) {
  const Folder folder;
  for (const MakeOptimizer& make : kOptimizers) {
    const std::vector<Parameter> there = some_parameters(DType::kFloat32), here = some_parameters(DType::kFloat32),
                                 back = some_parameters(DType::kFloat32);
    const std::vector<Buffer> buffers{{"average", vector_of({1, 2}).to(kCuda)}}, empty{{"average", vector_of({0, 0})}};
    move(there, kCuda);
    const auto a = make(there), b = make(here);
    give_gradients(there, 1);
    a->step(0.1);
    save_checkpoint(folder / "there", there, *a, {.step = 1, .seed = 2, .notes = {}}, buffers);
    BOOST_TEST(load_checkpoint(folder / "there", here, *b, empty).step == 1);
    check_equal(empty[0].value, {1, 2});
    BOOST_TEST(same(here, copies(there)));
    BOOST_TEST(same(a->state(), b->state()));
    save_checkpoint(folder / "here", here, *b, {.step = 1, .seed = 2, .notes = {}}, empty);
    BOOST_TEST((contents(folder / "here") == contents(folder / "there")));
    // And into a model on the device, which then goes on to the same bits.
    move(back, kCuda);
    const auto c = make(back);
    load_checkpoint(folder / "here", back, *c, buffers);
    BOOST_TEST((back[0].value().device() == kCuda));
    give_gradients(there, 2);
    give_gradients(back, 2);
    a->step(0.1);
    c->step(0.1);
    BOOST_TEST(same(back, copies(there)));
  }
}

BOOST_AUTO_TEST_CASE(what_is_not_finite_is_found, *on_device) {
  const double inf = std::numeric_limits<double>::infinity();
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16}) {
    for (const std::int64_t n : {1, 255, 256, 1'000'003}) {
      Tensor x = Tensor::full({n}, 1, dtype, kCuda);
      BOOST_TEST(first_non_finite(x) == -1);
      for (const std::int64_t at : {n - 1, n / 2, n / 3}) {
        x.slice(at, at + 1).fill(at % 2 == 0 ? inf : std::nan(""));
        BOOST_TEST(first_non_finite(x) == at);
      }
    }
  }
  BOOST_TEST(first_non_finite(Tensor::zeros({0}, DType::kFloat32, kCuda)) == -1);
  BOOST_TEST(first_non_finite(Tensor::full({3}, 1, DType::kInt64, kCuda)) == -1);

  const AnomalyMode anomaly;
  const Tensor x = vector_of({1, 2, 0, 4}).to(kCuda);
  BOOST_CHECK_EXCEPTION(ops::log(x), NumericalError, says({"'log'", "-inf", "element 2"}));
}

BOOST_AUTO_TEST_CASE(the_loss_scaler_unscales_on_the_device, *on_device) {
  const std::vector<Parameter> parameters = some_parameters();
  give_gradients(parameters, 1);
  move(parameters, kCuda);
  LossScaler scaler({.initial_scale = 4});
  BOOST_TEST(scaler.unscale(parameters).item() == 0);
  for (const Parameter& p : parameters) {
    std::vector<double> expected = doubles(gradient_of(p, 1));
    for (double& e : expected) e /= 4;
    check_equal(p.gradient(), expected);
  }
  scaler.update(0);
  Parameter(parameters[3]).mutable_gradient().fill(std::numeric_limits<double>::infinity());
  BOOST_TEST(scaler.unscale(parameters).item() > 0);
}

BOOST_AUTO_TEST_CASE(a_loss_scaler_of_the_device_goes_as_that_of_the_host, *on_device) {
  const train::LossScalerOptions options{
      .initial_scale = 1000, .growth_factor = 1.1, .backoff_factor = 0.3, .growth_interval = 2};
  train::LossScaler here(options), there(options, kCuda);
  const Number scale = there.scale(), inverse = there.gradient_scale();  // which stay where they are
  BOOST_TEST((scale.tensor().device() == kCuda));
  for (const int non_finite : {0, 0, 0, 2, 0, 1, 1, 0, 0, 0, 0, 7, 0, 0}) {
    const Number counted = Tensor::full({}, non_finite, DType::kFloat64, kCuda);
    const std::uint64_t waits = Device::waits();
    there.update(counted);
    BOOST_TEST(Device::waits() == waits);
    here.update(counted);  // waits, and reads it
    BOOST_TEST(scale.item() == here.scale().item());
    BOOST_TEST(inverse.item() == here.gradient_scale().item());
    BOOST_TEST(there.skipped_steps().item() == here.skipped_steps().item());
  }
  std::map<std::string, std::string> of_host, of_device, again;
  here.save(of_host);
  there.save(of_device);
  BOOST_TEST((of_device == of_host));
  train::LossScaler resumed(options, kCuda);
  resumed.load(of_host);
  resumed.save(again);
  BOOST_TEST((again == of_host));
  BOOST_TEST(resumed.gradient_scale().item() == inverse.item());
}

BOOST_AUTO_TEST_CASE(metrics_of_what_a_device_holds, *on_device) {
  const Tensor queries = random_values({20, 6}, 1), targets = random_values({20, 6}, 2);
  const std::vector<int> ks{1, 5};
  BOOST_TEST((recall_at_k(queries.to(kCuda), targets.to(kCuda), ks) == recall_at_k(queries, targets, ks)));
  std::vector<std::int64_t> labels;
  for (std::int64_t i = 0; i < 20; ++i) labels.push_back(i % 3);
  const Tensor classes = Tensor::from(labels, {20});
  const LinearProbeOptions options{.steps = 20};
  BOOST_TEST(linear_probe(queries.to(kCuda), classes.to(kCuda), targets.to(kCuda), classes.to(kCuda), options) ==
             linear_probe(queries, classes, targets, classes, options));
  BOOST_TEST(majority_class_accuracy(classes.to(kCuda), classes.to(kCuda)) ==
             majority_class_accuracy(classes, classes));
}

BOOST_AUTO_TEST_SUITE_END()
