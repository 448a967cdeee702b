#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "checks.h"
#include "cudnn_device.h"
#include "tapecache/ops/kernels/table.h"

// Attention by cuDNN against f64 on the CPU, of the same rounded values. It is called by itself, for where cuDNN
// declines, the op goes another way.

using namespace tapecache;
using namespace tapecache::kernels;
using namespace tapecache::testing;

namespace {

struct Problem {
  Attention layout;
  Tensor qkv, dy;                               // as the device gets them
  Tensor y, logsumexp, dqkv;                    // in f64
  Tensor found_y, found_logsumexp, found_dqkv;  // on the device, NaN before

  Problem(const Attention& a, DType low) : layout(a) {
    const Shape parts{a.batch, a.tokens, 3 * a.heads * a.width}, whole{a.batch, a.tokens, a.heads * a.width};
    const Shape rows{a.batch, a.heads, a.tokens};
    qkv = random_values(parts, 1, low);
    dy = random_values(whole, 2, low);
    const Tensor wide_qkv = qkv.to(DType::kFloat64), wide_dy = dy.to(DType::kFloat64);
    y = Tensor::empty(whole, DType::kFloat64);
    Tensor normalizers = Tensor::empty({rows.numel(), 2}, DType::kFloat64);
    logsumexp = Tensor::empty(rows, DType::kFloat64);
    dqkv = Tensor::empty(parts, DType::kFloat64);
    const auto& cpu = *std::get<const AttentionKernels<double>*>(cpu_table());
    cpu.attention(a, wide_qkv.data<double>(), nullptr, y.mutable_data<double>(), normalizers.mutable_data<double>());
    cpu.attention_backward(a, wide_qkv.data<double>(), nullptr, y.data<double>(), normalizers.data<double>(),
                           wide_dy.data<double>(), dqkv.mutable_data<double>(), Mode::kWrite);
    for (std::int64_t i = 0; i < rows.numel(); ++i) {
      const double* in_parts = normalizers.data<double>() + 2 * i;
      logsumexp.mutable_data<double>()[i] = a.scale * in_parts[0] + in_parts[1];
    }
    constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
    qkv = qkv.to(kCuda);
    dy = dy.to(kCuda);
    found_y = Tensor::full(whole, kNaN, low, kCuda);
    found_logsumexp = Tensor::full(rows, kNaN, DType::kFloat32, kCuda);
    found_dqkv = Tensor::full(parts, kNaN, low, kCuda);
  }

  template <class Low>
  bool forward(const bool* valid = nullptr) {
    cuda_table(0);  // selects the device
    return cuda::cudnn_attention(layout, qkv.data<Low>(), valid, found_y.mutable_data<Low>(),
                                 found_logsumexp.mutable_data<float>());
  }

  /// From what the CPU gave forward, as if another way had gone there.
  template <class Low>
  bool backward(Mode mode = Mode::kWrite, const bool* valid = nullptr, std::int64_t most_workspace = 256 << 20) {
    const Tensor low_y = y.to(qkv.dtype()).to(kCuda), sums = logsumexp.to(DType::kFloat32).to(kCuda);
    cuda_table(0);
    return cuda::cudnn_attention_backward(layout, qkv.data<Low>(), valid, low_y.data<Low>(), sums.data<float>(),
                                          dy.data<Low>(), found_dqkv.mutable_data<Low>(), mode, most_workspace);
  }
};

/// Of the largest expected value: some units in the last place of the type, for P and dS are rounded to it.
double tolerance(DType low, const Tensor& expected) {
  double largest = 0;
  for (const double value : doubles(expected)) largest = std::max(largest, std::abs(value));
  return largest * (low == DType::kBFloat16 ? 2e-2 : 3e-3);
}

void check_close(const Tensor& found, const Tensor& expected, double allowed) {
  BOOST_TEST(max_difference(found.to(Device::cpu()).to(DType::kFloat64), expected) <= allowed);
}

Attention layout(std::int64_t batch, std::int64_t tokens, std::int64_t heads, std::int64_t width, bool causal) {
  return {batch, tokens, heads, width, 1 / std::sqrt(static_cast<double>(width)), causal};
}

/// Small heads, and the towers of CLIP ViT-B/32 and ViT-L/14 and its text in few samples.
std::vector<Attention> layouts() {
  std::vector<Attention> all{layout(2, 9, 2, 8, false), layout(2, 17, 3, 16, true), layout(1, 50, 2, 64, false),
                             layout(1, 77, 2, 64, true), layout(1, 130, 1, 40, true)};
  if (kCuda.name() != "emulated") {
    all.insert(all.end(), {layout(8, 50, 12, 64, false), layout(8, 77, 8, 64, true), layout(4, 257, 16, 64, false),
                           layout(4, 197, 6, 128, true)});
  }
  return all;
}

template <class F>
void for_each_problem(const F& check) {
  for (const Attention& a : layouts()) {
    for (const DType low : {DType::kBFloat16, DType::kFloat16}) {
      BOOST_TEST_CONTEXT(a.batch << " times " << a.tokens << " tokens, " << a.heads << " heads of " << a.width
                                 << (a.causal ? ", causal, " : ", ") << name(low)) {
        Problem problem(a, low);
        if (low == DType::kBFloat16) check.template operator()<BFloat16>(problem, low);
        else check.template operator()<Float16>(problem, low);
      }
    }
  }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(cudnn_attention)

BOOST_AUTO_TEST_CASE(forward, *on_device* with_cudnn) {
  for_each_problem([]<class Low>(Problem& p, DType low) {
    BOOST_REQUIRE(p.forward<Low>());
    check_close(p.found_y, p.y, tolerance(low, p.y));
    check_close(p.found_logsumexp, p.logsumexp, 1e-3);
  });
}

BOOST_AUTO_TEST_CASE(backward, *on_device* with_cudnn) {
  for_each_problem([]<class Low>(Problem& p, DType low) {
    BOOST_REQUIRE(p.backward<Low>());
    check_close(p.found_dqkv, p.dqkv, tolerance(low, p.dqkv));
  });
}

BOOST_AUTO_TEST_CASE(backward_in_pieces, *on_device* with_cudnn) {
  // Of 7 samples: one by one; 2, 2, 2 and 1; 4 and 3.
  for (const std::int64_t most : {1, 2, 6}) {
    Problem p(layout(7, 9, 2, 8, true), DType::kBFloat16);
    BOOST_REQUIRE(p.backward<BFloat16>(Mode::kWrite, nullptr, most * 2 * 128 * 128 * 2));
    check_close(p.found_dqkv, p.dqkv, tolerance(DType::kBFloat16, p.dqkv));
  }
}

BOOST_AUTO_TEST_CASE(the_same_bits_each_time, *on_device* with_cudnn) {
  for_each_problem([]<class Low>(Problem& p, DType) {
    BOOST_REQUIRE(p.forward<Low>() && p.backward<Low>());
    const Tensor y = p.found_y.clone(), logsumexp = p.found_logsumexp.clone(), dqkv = p.found_dqkv.clone();
    for (int again = 0; again < 5; ++again) {
      BOOST_REQUIRE(p.forward<Low>() && p.backward<Low>());
      BOOST_TEST((same_bits(p.found_y, y) && same_bits(p.found_logsumexp, logsumexp) && same_bits(p.found_dqkv, dqkv)));
    }
  });
}

BOOST_AUTO_TEST_CASE(what_it_cannot_do_is_declined_and_left_alone, *on_device* with_cudnn) {
  Problem p(layout(2, 9, 2, 8, false), DType::kBFloat16);
  const Tensor valid = Tensor::full({2, 9}, 1, DType::kBool, kCuda), before = p.found_dqkv.clone();
  BOOST_TEST(!p.forward<BFloat16>(valid.data<bool>()));
  BOOST_TEST(!p.backward<BFloat16>(Mode::kWrite, valid.data<bool>()));
  BOOST_TEST(!p.backward<BFloat16>(Mode::kAccumulate));
  for (const Attention& odd : {layout(2, 9, 2, 4, false), layout(2, 1, 2, 8, false), layout(0, 9, 2, 8, false)}) {
    Problem other(odd, DType::kBFloat16);
    BOOST_TEST(!other.forward<BFloat16>());
    BOOST_TEST(!other.backward<BFloat16>());
  }
  BOOST_TEST(same_bits(p.found_dqkv, before));
  // A slice whose rows begin between multiples of 16 bytes.
  const Tensor odd = Tensor::empty({1000}, DType::kBFloat16, kCuda).slice(1, 1000);
  BOOST_TEST(!cuda::cudnn_attention(p.layout, odd.data<BFloat16>(), nullptr, p.found_y.mutable_data<BFloat16>(),
                                    p.found_logsumexp.mutable_data<float>()));
}

BOOST_AUTO_TEST_SUITE_END()
