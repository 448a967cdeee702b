#include <string>
#include <vector>

#include "gradcache_checks.h"
#include "tapecache/gradcache/cached.h"
#include "tapecache/gradcache/step.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/reduce.h"

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

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
  for (const DType precision : {DType::kFloat64, DType::kInt64}) {
    const std::string words = "autocast is " + std::string(name(precision)) + ", expected float32, bfloat16 or float16";
    const StepOptions options{.cut = {2}, .autocast = precision};
    check_throws<ValueError>([&] { cached_step(towers, setup.loss(), options); }, "cached_step: " + words);
    check_throws<ValueError>([&] { direct_step(towers, setup.loss(), options.direct()); }, "direct_step: " + words);
    check_throws<ValueError>(
        [&] { accumulated_step(towers, setup.loss(), {.chunk_sizes = {2}, .autocast = precision}); },
        "accumulated_step: " + words);
    check_throws<ValueError>([&] { cached(setup.image, setup.images, {.autocast = precision}); }, "cached: " + words);
  }
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
