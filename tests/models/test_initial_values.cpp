#include <cmath>
#include <string>
#include <vector>

#include "model_checks.h"
#include "tapecache/core/random.h"
#include "tapecache/models/clip.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

namespace {

void check_normal(const Parameter& p, double deviation) {
  BOOST_TEST_CONTEXT(p.name()) {
    const std::vector<double> x = doubles(p.value());
    const auto n = static_cast<double>(x.size());
    BOOST_REQUIRE(n >= 8000);
    double mean = 0, squares = 0, fourths = 0, neighbours = 0;
    for (const double v : x) mean += v / n;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double z = (x[i] - mean) / deviation;
      squares += z * z / n;
      fourths += z * z * z * z / n;
      if (i > 0) neighbours += z * (x[i - 1] - mean) / deviation / n;
    }
    BOOST_TEST(std::abs(mean) <= 5 * deviation / std::sqrt(n));
    BOOST_TEST(std::abs(std::sqrt(squares) - 1) <= 5 / std::sqrt(2 * n));
    BOOST_TEST(std::abs(fourths - 3) <= 5 * std::sqrt(96 / n));
    BOOST_TEST(std::abs(neighbours) <= 5 / std::sqrt(n));
  }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(initial_values)

BOOST_AUTO_TEST_CASE(initial_values_follow_the_seed) {
  const Clip a(small_clip(), 21), same(small_clip(), 21), other(small_clip(), 22);
  BOOST_TEST(same_values(same.parameters(), values_by_name(a.parameters())));
  for (std::size_t i = 0; i < a.parameters().size(); ++i) {
    const Parameter& p = a.parameters()[i];
    const bool constant = p.name().ends_with("bias") || p.name().find("norm") != std::string::npos ||
                          p.name().find("layrnorm") != std::string::npos || p.name() == "logit_scale";
    BOOST_TEST(same_bits(p.value(), other.parameters()[i].value()) == constant, p.name());
  }
  // Parameters of equal shape differ too.
  const std::string layers = "vision_model.encoder.layers.";
  const Tensor q0 = named(a.parameters(), layers + "0.self_attn.q_proj.weight").value();
  BOOST_TEST(!same_bits(q0, named(a.parameters(), layers + "0.self_attn.k_proj.weight").value()));
  BOOST_TEST(!same_bits(q0, named(a.parameters(), layers + "1.self_attn.q_proj.weight").value()));
}

BOOST_AUTO_TEST_CASE(initial_values_do_not_depend_on_the_order_of_construction) {
  const Builder one(31, DType::kFloat64), two(31, DType::kFloat64);
  const VisionTransformer vision1(one.child("v"), small_vision());
  const TextTransformer text1(one.child("t"), small_text());
  begin_random_step(4, 4);  // nor on the random stream
  const TextTransformer text2(two.child("t"), small_text());
  const VisionTransformer vision2(two.child("v"), small_vision());
  BOOST_TEST((random_state() == RandomState{{4, 4, 0}, 0, 0}));
  BOOST_TEST(one.parameters().front().name() != two.parameters().front().name());
  BOOST_TEST(same_values(two.parameters(), values_by_name(one.parameters())));
}

BOOST_AUTO_TEST_CASE(initial_values_agree_between_types) {
  const Clip narrow(small_clip(), 32, DType::kFloat32), wide(small_clip(), 32, DType::kFloat64);
  for (std::size_t i = 0; i < wide.parameters().size(); ++i) {
    BOOST_TEST(same_bits(narrow.parameters()[i].value(), wide.parameters()[i].value().to(DType::kFloat32)));
  }
}

BOOST_AUTO_TEST_CASE(uniform_initial_values_fill_their_range) {
  const Parameter p = Builder(3, DType::kFloat64).parameter("p", {10000}, Init::uniform(-1, 3));
  double mean = 0, squares = 0;
  for (const double v : doubles(p.value())) {
    BOOST_REQUIRE(v >= -1);
    BOOST_REQUIRE(v < 3);
    mean += v / 10000;
    squares += (v - 1) * (v - 1) / 10000;
  }
  BOOST_TEST(std::abs(mean - 1) <= 5 * std::sqrt(4.0 / 3 / 10000));
  BOOST_TEST(std::abs(squares - 4.0 / 3) <= 5 * std::sqrt((16.0 / 5 - 16.0 / 9) / 10000));
  for (const double v : doubles(Builder(3).parameter("c", {4}, Init::constant(2.5)).value())) BOOST_TEST(v == 2.5);
}

BOOST_AUTO_TEST_CASE(rounding_takes_no_uniform_value_to_the_end_of_its_range) {
  const double high = 100.25, low = high - 0x1p-13;  // 16 steps of f32 apart
  const Init open{.mean = (low + high) / 2, .half_range = (high - low) / 2};
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    const auto drawn = [&](const Init& init) {
      return doubles(Builder(3, dtype).parameter("p", {10000}, init).value());
    };
    const std::vector<double> values = drawn(Init::uniform(low, high)), rounded = drawn(open);
    int reached = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      BOOST_REQUIRE(values[i] >= low);
      BOOST_REQUIRE(values[i] < high);
      if (rounded[i] < high) BOOST_REQUIRE_EQUAL(values[i], rounded[i]);
      reached += rounded[i] >= high;
    }
    BOOST_TEST((reached > 0) == (dtype == DType::kFloat32));
  }
  // Where the end is no f32, and its nearest one lies beyond.
  const double end = high - 0x1p-20;
  for (const double v : doubles(Builder(3).parameter("p", {10000}, Init::uniform(low, end)).value()))
    BOOST_REQUIRE(v < end);
  for (const double v : doubles(Builder(3).parameter("p", {3}, Init::uniform(7, 7)).value())) BOOST_TEST(v == 7);
}

BOOST_AUTO_TEST_CASE(initial_values_have_the_published_deviations) {
  ClipConfig config;
  config.vision = {
      .image_size = 80, .patch_size = 8, .encoder = {.width = 128, .layers = 3, .heads = 4, .mlp_width = 512}};
  config.text = {
      .vocabulary = 500, .max_tokens = 77, .encoder = {.width = 192, .layers = 2, .heads = 4, .mlp_width = 256}};
  config.projection_width = 96;
  config.initial_temperature = 0.05;
  const Clip clip(config, 33);
  const auto of = [&](const std::string& name) -> const Parameter& { return named(clip.parameters(), name); };
  const std::string vision = "vision_model.encoder.layers.2.", text = "text_model.encoder.layers.0.";
  check_normal(of("vision_model.embeddings.patch_embedding.weight"), 0.02);
  check_normal(of("vision_model.embeddings.position_embedding.weight"), 0.01);
  check_normal(of("text_model.embeddings.token_embedding.weight"), 0.02);
  check_normal(of("text_model.embeddings.position_embedding.weight"), 0.01);
  for (const char* name :
       {"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight", "mlp.fc2.weight"}) {
    check_normal(of(vision + name), 1 / std::sqrt(128.0 * 6));
    check_normal(of(text + name), 1 / std::sqrt(192.0 * 4));
  }
  check_normal(of(vision + "self_attn.out_proj.weight"), 1 / std::sqrt(128.0));
  check_normal(of(text + "self_attn.out_proj.weight"), 1 / std::sqrt(192.0));
  check_normal(of(vision + "mlp.fc1.weight"), 1 / std::sqrt(2 * 128.0));
  check_normal(of(text + "mlp.fc1.weight"), 1 / std::sqrt(2 * 192.0));
  check_normal(of("visual_projection.weight"), 1 / std::sqrt(128.0));
  check_normal(of("text_projection.weight"), 1 / std::sqrt(192.0));
  const std::vector<double> cls = doubles(of("vision_model.embeddings.class_embedding").value());
  double squares = 0;
  for (const double v : cls) squares += v * v;
  BOOST_TEST(std::abs(squares - 1) <= 5 * std::sqrt(2.0 / 128));  // N(0, 1/width)
  BOOST_TEST(std::abs(clip.logit_scale().value().item() - std::log(20.0)) <= 1e-6);
  for (const Parameter& p : clip.parameters()) {
    const bool norm = p.name().find("norm") != std::string::npos;
    if (!p.name().ends_with("bias") && !norm) continue;
    const double expected = norm && p.name().ends_with("weight") ? 1 : 0;
    for (const double v : doubles(p.value())) BOOST_REQUIRE_EQUAL(v, expected);
  }
}

BOOST_AUTO_TEST_CASE(values_that_are_given_are_taken_as_they_are) {
  const Builder builder(3);
  const Tensor given = Tensor::full({2, 3}, 7);
  builder.set_first_values([&](const std::string& name, const Shape&) { return name == "part.w" ? given : Tensor(); });
  const Parameter taken = builder.child("part").parameter("w", {2, 3}, Init::normal(1));
  BOOST_TEST(taken.value().raw() == given.raw());
  const Parameter drawn = builder.parameter("w", {2, 3}, Init::normal(1));
  BOOST_TEST(same_bits(drawn.value(), Builder(3).parameter("w", {2, 3}, Init::normal(1)).value()));
  const auto refused = [](const Tensor& values) {
    const Builder other(3);
    other.set_first_values([values](const std::string&, const Shape&) { return values; });
    other.parameter("w", {2, 3}, Init::normal(1));
  };
  BOOST_CHECK_EXCEPTION(refused(Tensor::zeros({3, 2})), ShapeError, says({"'w' have shape [3, 2], expected [2, 3]"}));
  BOOST_CHECK_EXCEPTION(refused(Tensor::zeros({2, 3}, DType::kFloat64)), DTypeError,
                        says({"'w' are float64, expected float32"}));
  builder.set_first_values({});
  BOOST_TEST(!same_bits(builder.child("other").parameter("w", {2, 3}, Init::normal(1)).value(), given));
}

BOOST_AUTO_TEST_SUITE_END()
