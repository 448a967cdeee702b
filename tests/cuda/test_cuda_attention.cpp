#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "checks.h"
#include "cuda_device.h"
#include "tapecache/ops/kernels/table.h"

// Attention of 16-bit operands on a CUDA device, against sums written out in f64: shapes at and around the edges of
// tiles.

using namespace tapecache;
using namespace tapecache::testing;
using kernels::Attention;
using kernels::Mode;

namespace {

constexpr std::int64_t kGuard = 64;  // elements after an array, which must stay as they are
constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

/// Largest difference, over the largest value.
template <class Low>
constexpr double kTolerance = std::is_same_v<Low, BFloat16> ? 1e-2 : 2e-3;

enum class Masked { kNothing, kPadding, kHoles };

struct Case {
  Attention layout;
  Masked masked = Masked::kNothing;

  std::string text() const {
    return std::to_string(layout.batch) + " x " + std::to_string(layout.tokens) + " tokens, " +
           std::to_string(layout.heads) + " heads of " + std::to_string(layout.width) +
           (layout.causal ? ", causal" : "") + (layout.group > 1 ? ", sharing keys" : "") +
           (layout.window < layout.tokens ? ", window of " + std::to_string(layout.window) : "") +
           (masked == Masked::kPadding ? ", padding"
            : masked == Masked::kHoles ? ", holes"
                                       : "");
  }
  std::int64_t rows() const { return layout.batch * layout.heads * layout.tokens; }
  std::int64_t numel() const { return rows() * layout.width; }
  std::int64_t at(std::int64_t sample, std::int64_t token, std::int64_t head) const {
    return ((sample * layout.tokens + token) * layout.heads + head) * layout.width;
  }
  std::int64_t key_heads() const { return layout.heads / layout.group; }
  std::int64_t packed_heads() const { return layout.heads + 2 * key_heads(); }
  std::int64_t packed_numel() const { return layout.batch * layout.tokens * packed_heads() * layout.width; }
  std::int64_t at(std::int64_t sample, std::int64_t token, int part, std::int64_t head) const {
    const std::int64_t of_token = part == 0 ? head : layout.heads + (part - 1) * key_heads() + head / layout.group;
    return ((sample * layout.tokens + token) * packed_heads() + of_token) * layout.width;
  }
};

Case make_case(std::int64_t tokens, std::int64_t width, bool causal, Masked masked) {
  const std::int64_t heads = tokens > 100 ? 1 : 2;
  return {{2, tokens, heads, width, 1 / std::sqrt(static_cast<double>(width)), causal}, masked};
}

/// The last sample has nothing that may be attended to.
std::vector<double> valid_tokens(const Case& c) {
  std::vector<double> valid;
  for (std::int64_t sample = 0; sample < c.layout.batch; ++sample) {
    for (std::int64_t token = 0; token < c.layout.tokens; ++token) {
      const bool here = c.masked == Masked::kPadding ? token < (c.layout.tokens + 1) / 2 : token * 7 % 5 < 3;
      valid.push_back(here && sample + 1 < c.layout.batch);
    }
  }
  return valid;
}

struct Results {
  std::vector<double> y, logsumexp, dqkv;
};

Results expected_results(const Case& c, const std::vector<double>& qkv, const std::vector<double>& valid,
                         const std::vector<double>& dy) {
  const Attention& l = c.layout;
  Results r{std::vector<double>(static_cast<std::size_t>(c.numel())),
            std::vector<double>(static_cast<std::size_t>(c.rows())), std::vector<double>(qkv.size())};
  const auto dot = [&](const double* a, const double* b) {
    double sum = 0;
    for (std::int64_t d = 0; d < l.width; ++d) sum += a[d] * b[d];
    return sum;
  };
  const auto add = [&](double* to, double factor, const double* x) {
    for (std::int64_t d = 0; d < l.width; ++d) to[d] += factor * x[d];
  };
  for (std::int64_t sample = 0; sample < l.batch; ++sample) {
    for (std::int64_t head = 0; head < l.heads; ++head) {
      for (std::int64_t query = 0; query < l.tokens; ++query) {
        const double* q = qkv.data() + c.at(sample, query, 0, head);
        const double* slope = dy.data() + c.at(sample, query, head);
        double* y = r.y.data() + c.at(sample, query, head);
        std::vector<std::int64_t> keys;
        std::vector<double> scores;
        for (std::int64_t key = 0; key < (l.causal ? query + 1 : l.tokens); ++key) {
          if (std::abs(query - key) > l.window) continue;
          if (!valid.empty() && valid[static_cast<std::size_t>(sample * l.tokens + key)] == 0) continue;
          keys.push_back(key);
          scores.push_back(l.scale * dot(q, qkv.data() + c.at(sample, key, 1, head)));
        }
        double largest = keys.empty() ? 0 : *std::ranges::max_element(scores), sum = 0;
        for (const double s : scores) sum += std::exp(s - largest);
        const double logsumexp = largest + std::log(sum);
        r.logsumexp[static_cast<std::size_t>((sample * l.heads + head) * l.tokens + query)] = logsumexp;
        for (std::size_t i = 0; i < keys.size(); ++i) {
          add(y, std::exp(scores[i] - logsumexp), qkv.data() + c.at(sample, keys[i], 2, head));
        }
        for (std::size_t i = 0; i < keys.size(); ++i) {
          const double weight = std::exp(scores[i] - logsumexp);
          const double* v = qkv.data() + c.at(sample, keys[i], 2, head);
          const double ds = l.scale * weight * (dot(slope, v) - dot(slope, y));
          add(r.dqkv.data() + c.at(sample, query, 0, head), ds, qkv.data() + c.at(sample, keys[i], 1, head));
          add(r.dqkv.data() + c.at(sample, keys[i], 1, head), ds, q);
          add(r.dqkv.data() + c.at(sample, keys[i], 2, head), weight, slope);
        }
      }
    }
  }
  return r;
}

/// Poisoned memory with a guard behind it.
Tensor room(std::int64_t numel, DType dtype) { return Tensor::full({numel + kGuard}, kPoison, dtype, kCuda); }

std::vector<double> values_of(const Tensor& guarded) {
  std::vector<double> values = doubles(guarded);
  const auto guard = values.end() - kGuard;
  BOOST_CHECK_MESSAGE(std::all_of(guard, values.end(), [](double x) { return std::isnan(x); }), "written past the end");
  values.erase(guard, values.end());
  return values;
}

struct Inputs {
  Tensor qkv, valid, dy;

  explicit Inputs(const Case& c, DType low)
      : qkv(spread(c.packed_numel(), 1, low)),
        valid(c.masked == Masked::kNothing ? Tensor() : vector_of(valid_tokens(c)).to(DType::kBool).to(kCuda)),
        dy(random_values({c.numel()}, 2, low).to(kCuda)) {}

  const bool* valid_data() const { return valid.defined() ? valid.data<bool>() : nullptr; }

 private:
  /// Wide enough apart that a few keys have most of the weight.
  static Tensor spread(std::int64_t numel, std::uint64_t seed, DType low) {
    std::vector<double> values = doubles(random_values({numel}, seed));
    for (double& x : values) x *= 3;
    return vector_of(values).to(low).to(kCuda);
  }
};

template <class Low>
Results run_on_device(const Case& c, const Inputs& inputs, const Tensor& before) {
  const auto& table = *std::get<const kernels::AttentionKernels<Low>*>(kernels::cuda_table(0));
  const Low *qkv = inputs.qkv.data<Low>(), *dy = inputs.dy.data<Low>();
  Tensor y = room(c.numel(), dtype_of<Low>()), logsumexp = room(c.rows(), DType::kFloat32);
  Tensor dqkv = room(c.packed_numel(), dtype_of<Low>());
  if (before.defined()) dqkv.slice(0, c.packed_numel()).copy_from(before);
  table.attention(c.layout, qkv, inputs.valid_data(), y.mutable_data<Low>(), logsumexp.mutable_data<float>());
  table.attention_backward(c.layout, qkv, inputs.valid_data(), y.data<Low>(), logsumexp.data<float>(), dy,
                           dqkv.mutable_data<Low>(), before.defined() ? Mode::kAccumulate : Mode::kWrite);
  return {values_of(y), values_of(logsumexp), values_of(dqkv)};
}

/// Largest difference over the largest expected value; NaN where there is one.
double relative_error(const std::vector<double>& found, const std::vector<double>& expected, double least = 1e-3) {
  double largest = least, worst = 0;
  for (const double x : expected) largest = std::max(largest, std::abs(x));
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double difference = std::abs(found[i] - expected[i]);
    if (std::isnan(difference)) return difference;
    worst = std::max(worst, difference);
  }
  return worst / largest;
}

std::vector<double> part_of(const Case& c, const std::vector<double>& dqkv, std::int64_t part) {
  const std::int64_t heads = c.layout.heads, key_heads = c.key_heads();
  std::vector<double> values;
  for (std::int64_t i = 0; i < std::ssize(dqkv); ++i) {
    const std::int64_t head = i / c.layout.width % c.packed_heads();
    if ((head < heads ? 0 : 1 + (head - heads) / key_heads) == part)
      values.push_back(dqkv[static_cast<std::size_t>(i)]);
  }
  return values;
}

template <class Low>
void check_case(const Case& c, bool accumulate = false) {
  const Inputs inputs(c, dtype_of<Low>());
  const Tensor before = accumulate ? random_values({c.packed_numel()}, 3, dtype_of<Low>()) : Tensor();
  const std::vector<double> valid = inputs.valid.defined() ? doubles(inputs.valid) : std::vector<double>();
  Results expected = expected_results(c, doubles(inputs.qkv), valid, doubles(inputs.dy));
  const Results found = run_on_device<Low>(c, inputs, accumulate ? before.to(kCuda) : Tensor());
  const auto check = [&](const char* what, const std::vector<double>& a, const std::vector<double>& b) {
    const double error = relative_error(a, b);
    BOOST_CHECK_MESSAGE(error <= kTolerance<Low>,
                        c.text() << (accumulate ? ", added: " : ": ") << what << " differs by " << error);
  };
  check("y", found.y, expected.y);
  for (std::size_t i = 0; i < expected.logsumexp.size(); ++i) {
    const double a = found.logsumexp[i], b = expected.logsumexp[i];
    BOOST_CHECK_MESSAGE(a == b || std::abs(a - b) <= 1e-4, c.text()
                                                               << ": logsumexp " << i << " is " << a << ", not " << b);
  }
  if (accumulate) {
    const std::vector<double> added = doubles(before);
    for (std::size_t i = 0; i < added.size(); ++i) expected.dqkv[i] += added[i];
  }
  const char* names[] = {"dq", "dk", "dv"};
  for (int part = 0; part < 3; ++part)
    check(names[part], part_of(c, found.dqkv, part), part_of(c, expected.dqkv, part));
}

/// More than two tiles, and one token of another: on a device five tiles, where the emulator takes long for each.
std::int64_t many_tokens() { return kCuda.name() == "emulated" ? 193 : 257; }

template <class Low>
void check_shapes(bool causal, Masked masked) {
  for (const std::int64_t width : {16, 32, 64, 80, 128}) {
    for (const std::int64_t tokens :
         std::initializer_list<std::int64_t>{1, 15, 16, 50, 63, 64, 65, 77, 130, many_tokens()}) {
      check_case<Low>(make_case(tokens, width, causal, masked));
    }
  }
}

using LowTypes = std::tuple<BFloat16, Float16>;

}  // namespace

BOOST_AUTO_TEST_SUITE(cuda_attention)

BOOST_TEST_DECORATOR(*on_device)
BOOST_AUTO_TEST_CASE_TEMPLATE(to_all, Low, LowTypes) { check_shapes<Low>(false, Masked::kNothing); }

BOOST_TEST_DECORATOR(*on_device)
BOOST_AUTO_TEST_CASE_TEMPLATE(causal, Low, LowTypes) { check_shapes<Low>(true, Masked::kNothing); }

BOOST_TEST_DECORATOR(*on_device)
BOOST_AUTO_TEST_CASE_TEMPLATE(holes, Low, LowTypes) { check_shapes<Low>(false, Masked::kHoles); }

BOOST_TEST_DECORATOR(*on_device)
BOOST_AUTO_TEST_CASE_TEMPLATE(causal_padding, Low, LowTypes) { check_shapes<Low>(true, Masked::kPadding); }

BOOST_TEST_DECORATOR(*on_device)
BOOST_AUTO_TEST_CASE_TEMPLATE(other_widths, Low, LowTypes) {
  for (const std::int64_t width : {8, 24, 48, 96, 112, 144}) {
    check_case<Low>(make_case(77, width, false, Masked::kPadding));
    check_case<Low>(make_case(130, width, true, Masked::kHoles));
  }
}

BOOST_TEST_DECORATOR(*on_device)
BOOST_AUTO_TEST_CASE_TEMPLATE(windows, Low, LowTypes) {
  for (const bool causal : {false, true}) {
    for (const std::int64_t tokens : std::initializer_list<std::int64_t>{15, 64, 65, 130, many_tokens()}) {
      for (const std::int64_t window : {0, 3, 31, 64, 100}) {
        Case c = make_case(tokens, tokens == 130 ? 80 : 32, causal, window == 31 ? Masked::kHoles : Masked::kNothing);
        c.layout.window = window;
        check_case<Low>(c);
      }
    }
  }
}

BOOST_TEST_DECORATOR(*on_device)
BOOST_AUTO_TEST_CASE_TEMPLATE(heads_that_share_keys, Low, LowTypes) {
  for (const bool causal : {false, true}) {
    for (const std::int64_t tokens : {15, 64, 65, 130}) {
      for (const std::int64_t group : {2, 3}) {
        Case c = make_case(tokens, group == 2 ? 32 : 80, causal, causal ? Masked::kPadding : Masked::kNothing);
        c.layout.heads = 6;
        c.layout.group = group;
        check_case<Low>(c, tokens == 65);
        c.layout.window = 20;
        check_case<Low>(c);
      }
    }
  }
}

BOOST_TEST_DECORATOR(*on_device)
BOOST_AUTO_TEST_CASE_TEMPLATE(gradients_are_added, Low, LowTypes) {
  for (const std::int64_t tokens : {50, 77}) {
    for (const std::int64_t width : {32, 64, 80, 128})
      check_case<Low>(make_case(tokens, width, true, Masked::kHoles), true);
  }
}

BOOST_AUTO_TEST_CASE(the_same_bits_again, *on_device) {
  for (const std::int64_t tokens : {50, 130}) {
    const Case c = make_case(tokens, 64, true, Masked::kHoles);
    const Inputs inputs(c, DType::kBFloat16);
    const Results once = run_on_device<BFloat16>(c, inputs, {}), again = run_on_device<BFloat16>(c, inputs, {});
    BOOST_CHECK(once.y == again.y && once.dqkv == again.dqkv);
    BOOST_CHECK(std::ranges::equal(once.logsumexp, again.logsumexp));
  }
}

BOOST_AUTO_TEST_SUITE_END()
