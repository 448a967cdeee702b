#include "gradcache_checks.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/device.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/reduce.h"

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

std::int64_t rows_seen = 0;

}  // namespace

BOOST_AUTO_TEST_SUITE(gradcache_step)

BOOST_AUTO_TEST_CASE(every_chunk_size_equals_direct_in_f64) {
  for (const double dropout : {0.0, 0.3}) {
    const ClipSetup setup(13, DType::kFloat64, dropout);
    for (std::int64_t chunk = 1; chunk <= setup.n + 1; ++chunk) {
      BOOST_TEST_CONTEXT("chunk " << chunk << ", dropout " << dropout) {
        begin_random_step(5, 3);
        check_equal(compare(setup.towers(), setup.loss(), {{chunk}}, setup.parameters()), 1e-12);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(f32_equals_direct_to_rounding) {
  const ClipSetup setup(64, DType::kFloat32, 0.1);
  for (const std::int64_t chunk : {1, 7, 16, 64}) {
    check_equal(compare(setup.towers(), setup.loss(), {{chunk}}, setup.parameters()), 1e-5);
  }
}

BOOST_AUTO_TEST_CASE(accumulation_is_not_equal) {
  const ClipSetup setup(16);
  const auto towers = setup.towers();
  const Comparison c = compare_steps([&] { return direct_step(towers, setup.loss()); },
                                     [&] { return accumulated_step(towers, setup.loss(), {{4}}); }, setup.parameters());
  BOOST_TEST(c.relative_norm > 1e-2);
  // One chunk of everything is the direct step.
  check_equal(compare_steps([&] { return direct_step(towers, setup.loss()); },
                            [&] { return accumulated_step(towers, setup.loss(), {{16}}); }, setup.parameters()),
              1e-12);
}

BOOST_AUTO_TEST_CASE(dropout_draws_do_not_depend_on_the_cut) {
  const ClipSetup setup(9, DType::kFloat64, 0.5);
  begin_random_step(1, 1);
  const StepResult whole = direct_step(setup.towers(), setup.loss());
  const RandomState after = random_state();
  for (const std::int64_t chunk : {1, 2, 4, 9}) {
    begin_random_step(1, 1);
    const StepResult cached = cached_step(setup.towers(), setup.loss(), {{chunk}});
    BOOST_TEST((random_state() == after));
    for (std::size_t i = 0; i < 2; ++i) {
      const auto a = whole.representations[i].to_vector<double>(), b = cached.representations[i].to_vector<double>();
      for (std::size_t k = 0; k < a.size(); ++k) BOOST_TEST(std::abs(a[k] - b[k]) <= 1e-14);
    }
  }
  begin_random_step(1, 2);
  const StepResult other_step = direct_step(setup.towers(), setup.loss());
  BOOST_TEST(other_step.loss.item() != whole.loss.item());
}

BOOST_AUTO_TEST_CASE(chunk_size_per_tower) {
  const ClipSetup setup(10, DType::kFloat64, 0.2);
  check_equal(compare(setup.towers(), setup.loss(), {{3, 4}}, setup.parameters()), 1e-12);
}

BOOST_AUTO_TEST_CASE(tied_towers_receive_both_contributions) {
  const Encoder shared(40, DType::kFloat64, 0.2);
  const Parameter log_scale("log_scale", Tensor::full({}, 1.0, DType::kFloat64));
  const std::vector<Tower> towers{{"a", random_values({8, 5}, 1), shared}, {"b", random_values({8, 5}, 2), shared}};
  const Loss loss = [&](std::span<const Variable> r) {
    return clip_loss(r[0], r[1], {.scale = Scale::from_log(log_scale)});
  };
  for (const std::int64_t chunk : {1, 3, 8}) {
    check_equal(compare(towers, loss, {{chunk}}, joined({shared.parameters(), {log_scale}})), 1e-12);
  }
}

BOOST_AUTO_TEST_CASE(frozen_tower_is_forwarded_once) {
  ClipSetup setup(8, DType::kFloat64, 0.2);
  for (Parameter p : setup.image.parameters()) p.set_requires_gradient(false);
  rows_seen = 0;
  const auto counting = [encoder = setup.image](const Tensor& x) {
    rows_seen += x.size(0);
    return encoder(x);
  };
  const std::vector<Tower> towers{{"image", setup.images, counting}, {"text", setup.texts, setup.text}};
  cached_step(towers, setup.loss(), {{3}});
  BOOST_TEST(rows_seen == 8);
  for (const Parameter& p : setup.image.parameters()) BOOST_TEST(!p.gradient().defined());
  for (Parameter p : setup.text.parameters()) p.clear_gradient();
  check_equal(compare(towers, setup.loss(), {{3}}, setup.text.parameters()), 1e-12);
}

BOOST_AUTO_TEST_CASE(all_towers_frozen_leaves_the_loss_parameters) {
  ClipSetup setup(6);
  for (Parameter p : joined({setup.image.parameters(), setup.text.parameters()})) p.set_requires_gradient(false);
  check_equal(compare(setup.towers(), setup.loss(), {{4}}, std::vector{setup.log_scale}), 1e-12);
  cached_step(setup.towers(), setup.loss(), {{4}});
  BOOST_TEST(setup.log_scale.gradient().defined());
}

BOOST_AUTO_TEST_CASE(three_towers) {
  const Encoder a(50, DType::kFloat64, 0.1), b(60, DType::kFloat64, 0.1), c(70, DType::kFloat64, 0.1);
  const std::vector<Tower> towers{
      {"a", random_values({7, 5}, 1), a}, {"b", random_values({7, 5}, 2), b}, {"c", random_values({7, 5}, 3), c}};
  const Loss loss = [](std::span<const Variable> r) {
    return ops::add(info_nce(r[0], r[1]), ops::add(info_nce(r[1], r[2]), info_nce(r[2], r[0], {.scale = 3.0})));
  };
  for (const std::int64_t chunk : {1, 2, 7}) {
    check_equal(compare(towers, loss, {{chunk}}, joined({a.parameters(), b.parameters(), c.parameters()})), 1e-12);
  }
}

BOOST_AUTO_TEST_CASE(hard_negatives) {
  const Encoder query(80, DType::kFloat64, 0.1), passage(90, DType::kFloat64, 0.1);
  const std::vector<Tower> towers{{"query", random_values({5, 5}, 1), query},
                                  {"passage", random_values({15, 5}, 2), passage}};
  const Loss loss = [](std::span<const Variable> r) { return info_nce(r[0], r[1]); };
  for (const std::int64_t chunk : {1, 4, 15, 16}) {
    check_equal(compare(towers, loss, {{chunk}}, joined({query.parameters(), passage.parameters()})), 1e-12);
  }
  check_equal(compare(towers, loss, {{2, 6}}, joined({query.parameters(), passage.parameters()})), 1e-12);
}

BOOST_AUTO_TEST_CASE(any_splittable_input) {
  struct Pairs {
    Tensor left, right;
    std::int64_t size() const { return left.size(0); }
    Pairs slice(std::int64_t begin, std::int64_t end) const {
      return {left.slice(begin, end), right.slice(begin, end)};
    }
  };
  const Encoder encoder(11, DType::kFloat64, 0.1);
  const std::vector<Tower> towers{{"pairs", Pairs{random_values({6, 5}, 1), random_values({6, 5}, 2)},
                                   [encoder](const Pairs& p) { return ops::add(encoder(p.left), encoder(p.right)); }},
                                  {"single", random_values({6, 5}, 3), encoder}};
  const Loss loss = [](std::span<const Variable> r) { return info_nce(r[0], r[1]); };
  check_equal(compare(towers, loss, {{4}}, encoder.parameters()), 1e-12);
}

BOOST_AUTO_TEST_CASE(representations_of_any_rank) {
  const Parameter w("w", random_values({3, 4}, 1));
  const auto encode = [w](const Tensor& x) { return ops::tanh(ops::linear(x, w)); };
  const std::vector<Tower> towers{{"tokens", random_values({6, 2, 4}, 2), encode}};
  const Loss loss = [](std::span<const Variable> r) {
    const Variable pooled = ops::max(r[0], 1);
    return info_nce(pooled, ops::scale(ops::mean(r[0], 1), 2.0));
  };
  check_equal(compare(towers, loss, {{4}}, std::vector{w}), 1e-12);
}

BOOST_AUTO_TEST_CASE(gradients_add_to_what_is_there) {
  const ClipSetup setup(6);
  cached_step(setup.towers(), setup.loss(), {{4}});
  std::vector<std::vector<double>> once;
  for (const Parameter& p : setup.parameters()) once.push_back(p.gradient().to_vector<double>());
  cached_step(setup.towers(), setup.loss(), {{2}});
  std::size_t i = 0;
  for (const Parameter& p : setup.parameters()) {
    const auto twice = p.gradient().to_vector<double>();
    for (std::size_t k = 0; k < twice.size(); ++k) {
      BOOST_TEST(std::abs(twice[k] - 2 * once[i][k]) <= 1e-12 * std::max(1.0, std::abs(twice[k])));
    }
    ++i;
  }
}

BOOST_AUTO_TEST_CASE(hooks_run_once_after_the_last_chunk) {
  ClipSetup setup(6);
  int calls = 0;
  double norm_seen = 0;
  setup.image.w1.add_hook([&](Parameter& p) {
    ++calls;
    norm_seen = std::abs(p.gradient().to_vector<double>()[0]);
  });
  cached_step(setup.towers(), setup.loss(), {{2}});
  BOOST_TEST(calls == 1);
  BOOST_TEST(norm_seen == std::abs(setup.image.w1.gradient().to_vector<double>()[0]));
}

BOOST_AUTO_TEST_CASE(same_bits_for_any_thread_count) {
  const ClipSetup setup(40, DType::kFloat32, 0.2);
  const int before = thread_count();
  std::vector<std::vector<float>> reference;
  for (const int threads : {1, 2, 4}) {
    set_thread_count(threads);
    for (Parameter p : setup.parameters()) p.clear_gradient();
    begin_random_step(2, 2);
    cached_step(setup.towers(), setup.loss(), {{16}});
    std::size_t i = 0;
    for (const Parameter& p : setup.parameters()) {
      const auto g = p.gradient().to_vector<float>();
      if (threads == 1) reference.push_back(g);
      BOOST_TEST((g == reference[i++]));
    }
  }
  set_thread_count(before);
}

BOOST_AUTO_TEST_CASE(peak_memory_is_flat_as_the_batch_grows) {
  // Wide hidden layers: activations outweigh representations by far.
  const auto extra_bytes = [](std::int64_t n) {
    const Encoder image(1, DType::kFloat32, 0.1, 8, 512, 4), text(2, DType::kFloat32, 0.1, 8, 512, 4);
    const Tensor images = random_values({n, 8}, 3, DType::kFloat32), texts = random_values({n, 8}, 4, DType::kFloat32);
    const std::vector<Tower> towers{{"image", images, image}, {"text", texts, text}};
    const Loss loss = [](std::span<const Variable> r) {
      return ops::sum(ops::multiply(r[0], r[1]));  // no N×N logits: what is measured is the step itself
    };
    cached_step(towers, loss, {{16}});
    allocator().reset_peak();
    const std::size_t before = allocator().stats().current;
    cached_step(towers, loss, {{16}});
    const std::size_t of_batch = static_cast<std::size_t>(n) * 4 * sizeof(float);
    return static_cast<double>(allocator().stats().peak - before) - 6.0 * static_cast<double>(of_batch);
  };
  const double small = extra_bytes(64), large = extra_bytes(4096);
  BOOST_TEST(small > 0);
  BOOST_TEST(large <= 1.05 * small);
}

BOOST_AUTO_TEST_CASE(fits_under_a_limit_that_direct_does_not) {
  const Encoder image(1, DType::kFloat32, 0.1, 8, 512, 4), text(2, DType::kFloat32, 0.1, 8, 512, 4);
  const std::vector<Tower> towers{{"image", random_values({512, 8}, 3, DType::kFloat32), image},
                                  {"text", random_values({512, 8}, 4, DType::kFloat32), text}};
  const Loss loss = [](std::span<const Variable> r) { return ops::sum(ops::multiply(r[0], r[1])); };
  const std::size_t in_use = allocator().stats().current;
  const MemoryLimit limit(in_use + (1 << 20));
  BOOST_CHECK_THROW(direct_step(towers, loss), OutOfMemory);
  BOOST_TEST(allocator().stats().current == in_use);
  BOOST_CHECK_NO_THROW(cached_step(towers, loss, {{16}}));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(gradcache_errors)

namespace {

template <class E, class F>
void check_throws(F&& f, const std::string& part) {
  BOOST_CHECK_EXCEPTION(f(), E, [&](const E& e) {
    const bool found = std::string(e.what()).find(part) != std::string::npos;
    if (!found) BOOST_TEST_MESSAGE("message was: " << e.what());
    return found;
  });
}

}  // namespace

BOOST_AUTO_TEST_CASE(bad_arguments_name_what_is_wrong) {
  const ClipSetup setup(6);
  const auto towers = setup.towers();
  check_throws<ValueError>([&] { cached_step(towers, setup.loss(), {{0}}); }, "chunk size 0 for tower 'image'");
  check_throws<ValueError>([&] { cached_step(towers, setup.loss(), {{2, -1}}); }, "chunk size -1 for tower 'text'");
  check_throws<ValueError>([&] { cached_step(towers, setup.loss(), {}); }, "0 chunk sizes for 2 towers");
  check_throws<ValueError>([&] { cached_step({}, setup.loss(), {{1}}); }, "no towers");
  check_throws<ValueError>([&] { direct_step({}, setup.loss()); }, "no towers");
  const std::vector<Tower> empty{{"image", setup.images.slice(0, 0), setup.image}};
  check_throws<ValueError>([&] { cached_step(empty, setup.loss(), {{1}}); }, "tower 'image' has no samples");
  for (const Parameter& p : setup.parameters()) BOOST_TEST(!p.gradient().defined());
}

BOOST_AUTO_TEST_CASE(towers_of_different_pair_counts) {
  const ClipSetup setup(6);
  const std::vector<Tower> towers{{"image", setup.images, setup.image}, {"text", setup.texts.slice(0, 5), setup.text}};
  check_throws<ShapeError>([&] { cached_step(towers, setup.loss(), {{2}}); }, "6 images and 5 texts");
  const Loss nce = [](std::span<const Variable> r) { return info_nce(r[1], r[0]); };
  check_throws<ShapeError>([&] { cached_step(towers, nce, {{2}}); }, "6 targets for 5 queries");
  for (const Parameter& p : setup.parameters()) BOOST_TEST(!p.gradient().defined());
}

BOOST_AUTO_TEST_CASE(losses_that_cannot_be_right) {
  const ClipSetup setup(6);
  const auto towers = setup.towers();
  check_throws<ValueError>([&] { cached_step(towers, [](auto r) { return info_nce(r[0], detach(r[0])); }, {{2}}); },
                           "does not use the representations of tower 'text'");
  check_throws<ShapeError>([&] { cached_step(towers, [](auto r) { return r[0]; }, {{2}}); }, "expected a scalar");
}

BOOST_AUTO_TEST_CASE(encoders_that_cannot_be_right) {
  const ClipSetup setup(6);
  const std::vector<Tower> sum_tower{{"pooled", setup.images, [&](const Tensor& x) {
                                        return ops::reshape(ops::sum(setup.image(x), 0), {1, 4});
                                      }}};
  check_throws<ShapeError>([&] { cached_step(sum_tower, [](auto r) { return ops::sum(r[0]); }, {{4}}); },
                           "tower 'pooled'");
  const std::vector<Tower> uneven{{"uneven", setup.images, [&](const Tensor& x) {
                                     Variable y = setup.image(x);
                                     return x.size(0) == 4 ? ops::dropout(y, 0.1) : y;
                                   }}};
  check_throws<ValueError>([&] { cached_step(uneven, [](auto r) { return ops::sum(r[0]); }, {{4}}); }, "random draws");
}

BOOST_AUTO_TEST_CASE(compare_shows_nan) {
  const ClipSetup setup(4);
  const auto towers = setup.towers();
  const Loss nan_loss = [](std::span<const Variable> r) {
    return ops::sum(ops::log(ops::add(ops::scale(r[0], 0.0), ops::scale(r[1], 0.0))));
  };
  const Comparison c = compare(towers, nan_loss, {{2}}, setup.image.parameters());
  BOOST_TEST(!(c.relative_norm <= 1e-5));
  BOOST_TEST(!(c.max_relative() <= 1e-5));
}

BOOST_AUTO_TEST_CASE(compare_leaves_gradients_and_random_state_alone) {
  const ClipSetup setup(4, DType::kFloat64, 0.2);
  begin_random_step(9, 9);
  cached_step(setup.towers(), setup.loss(), {{2}});
  const RandomState random = random_state();
  const auto before = setup.image.w1.gradient().to_vector<double>();
  compare(setup.towers(), setup.loss(), {{3}}, setup.parameters());
  BOOST_TEST((setup.image.w1.gradient().to_vector<double>() == before));
  BOOST_TEST((random_state() == random));
}

BOOST_AUTO_TEST_SUITE_END()
