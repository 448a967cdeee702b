#include <boost/test/unit_test.hpp>

#include <cmath>

#include "tapecache/autograd/gradcheck.h"
#include "tapecache/core/philox.h"
#include "tapecache/gradcache/losses.h"

using namespace tapecache;
using namespace tapecache::gradcache;

namespace {

using Matrix = std::vector<std::vector<double>>;

Tensor random_rows(std::int64_t rows, std::int64_t width, std::uint64_t seed) {
  Tensor t = Tensor::empty({rows, width}, DType::kFloat64);
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    t.mutable_data<double>()[i] = 2.0 * uniform(RandomKey{seed}.draw(0, static_cast<std::uint32_t>(i))[0]) - 1.0;
  }
  return t;
}

Matrix logits_of(const Tensor& a, const Tensor& b, double scale) {
  Matrix logits(static_cast<std::size_t>(a.size(0)), std::vector<double>(static_cast<std::size_t>(b.size(0)), 0.0));
  for (std::int64_t i = 0; i < a.size(0); ++i) {
    for (std::int64_t j = 0; j < b.size(0); ++j) {
      for (std::int64_t k = 0; k < a.size(1); ++k) {
        logits[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)] +=
            scale * a.data<double>()[i * a.size(1) + k] * b.data<double>()[j * b.size(1) + k];
      }
    }
  }
  return logits;
}

double mean_nll(const Matrix& logits, std::size_t target_step) {
  double total = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    double sum = 0;
    for (double z : logits[i]) sum += std::exp(z);
    total += std::log(sum) - logits[i][i * target_step];
  }
  return total / static_cast<double>(logits.size());
}

Matrix transposed(const Matrix& m) {
  Matrix t(m[0].size(), std::vector<double>(m.size()));
  for (std::size_t i = 0; i < m.size(); ++i) {
    for (std::size_t j = 0; j < m[0].size(); ++j) t[j][i] = m[i][j];
  }
  return t;
}

void check_near(double found, double expected) {
  BOOST_TEST(std::abs(found - expected) <= 1e-12 * std::max(1.0, std::abs(expected)), found << " vs " << expected);
}

void check_gradient(const std::function<Variable(std::span<const Variable>)>& loss, std::vector<Tensor> inputs) {
  const GradcheckResult result = gradcheck(loss, inputs);
  BOOST_TEST(result.passed, result.message);
}

Tensor scalar(double value) { return Tensor::scalar(value); }

}  // namespace

BOOST_AUTO_TEST_SUITE(gradcache_losses)

BOOST_AUTO_TEST_CASE(info_nce_equals_its_definition) {
  const Tensor q = random_rows(4, 3, 1);
  for (const std::int64_t hard : {0, 1, 2}) {
    const Tensor t = random_rows(4 * (1 + hard), 3, 2);
    check_near(info_nce(q, t, 5.0).value().item(), mean_nll(logits_of(q, t, 5.0), static_cast<std::size_t>(1 + hard)));
    check_gradient([](auto v) { return info_nce(v[0], v[1], v[2]); }, {q, t, scalar(5.0)});
  }
}

BOOST_AUTO_TEST_CASE(clip_loss_equals_its_definition) {
  const Tensor a = random_rows(5, 3, 3), b = random_rows(5, 3, 4);
  const Matrix logits = logits_of(a, b, std::exp(1.2));
  check_near(clip_loss(a, b, scalar(1.2)).value().item(),
             0.5 * (mean_nll(logits, 1) + mean_nll(transposed(logits), 1)));
  check_gradient([](auto v) { return clip_loss(v[0], v[1], v[2]); }, {a, b, scalar(1.2)});
}

BOOST_AUTO_TEST_CASE(clip_scale_is_clamped_at_100) {
  const Tensor a = random_rows(4, 3, 5), b = random_rows(4, 3, 6);
  const double at_limit = clip_loss(a, b, scalar(std::log(100.0))).value().item();
  check_near(clip_loss(a, b, scalar(9.0)).value().item(), at_limit);
  Parameter log_scale("log_scale", scalar(9.0));
  clamp_log_scale(log_scale);
  check_near(log_scale.value().item(), std::log(100.0));
  Parameter below("log_scale", scalar(1.0));
  clamp_log_scale(below);
  check_near(below.value().item(), 1.0);
}

BOOST_AUTO_TEST_CASE(siglip_loss_equals_its_definition) {
  const Tensor a = random_rows(4, 3, 7), b = random_rows(4, 3, 8);
  const Matrix logits = logits_of(a, b, std::exp(0.7));
  double expected = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    for (std::size_t j = 0; j < 4; ++j) {
      const double z = i == j ? 1.0 : -1.0;
      expected += std::log1p(std::exp(-z * (logits[i][j] - 2.0))) / 4.0;
    }
  }
  check_near(siglip_loss(a, b, scalar(0.7), scalar(-2.0)).value().item(), expected);
  check_gradient([](auto v) { return siglip_loss(v[0], v[1], v[2], v[3]); }, {a, b, scalar(0.7), scalar(-2.0)});
}

BOOST_AUTO_TEST_CASE(shapes_are_checked) {
  const Tensor a = random_rows(4, 3, 1);
  BOOST_CHECK_THROW(clip_loss(a, random_rows(3, 3, 2), scalar(1.0)), ShapeError);
  BOOST_CHECK_THROW(clip_loss(a, random_rows(4, 2, 2), scalar(1.0)), ShapeError);
  BOOST_CHECK_THROW(clip_loss(a, a, a), ShapeError);
  BOOST_CHECK_THROW(siglip_loss(a, random_rows(5, 3, 2), scalar(1.0), scalar(0.0)), ShapeError);
  BOOST_CHECK_THROW(info_nce(a, random_rows(6, 3, 2)), ShapeError);
  BOOST_CHECK_THROW(info_nce(a, Variable()), ShapeError);
  BOOST_CHECK_THROW(info_nce(a, random_rows(4, 3, 2).to(DType::kFloat32)), DTypeError);
}

BOOST_AUTO_TEST_SUITE_END()
