#pragma once

#include <cstdint>

#include "tapecache/autograd/variable.h"
#include "tapecache/core/tensor.h"

namespace tapecache::ops {

// Two operands of one floating dtype, broadcast against each other as in NumPy. Each throws ShapeError where the
// shapes do not broadcast, DTypeError where the types differ.
Variable add(const Variable& a, const Variable& b);
Variable subtract(const Variable& a, const Variable& b);
Variable multiply(const Variable& a, const Variable& b);
Variable divide(const Variable& a, const Variable& b);

// Element-wise functions of one floating tensor of any shape.
Variable scale(const Variable& x, double factor);
Variable negate(const Variable& x);
Variable exp(const Variable& x);
Variable log(const Variable& x);
Variable sqrt(const Variable& x);
/// 1 / √x
Variable rsqrt(const Variable& x);
/// x^exponent, for x > 0 or an integer exponent
Variable pow(const Variable& x, double exponent);
Variable tanh(const Variable& x);
/// The error function 2/√π ∫₀ˣ exp(-t²) dt
Variable erf(const Variable& x);
Variable sigmoid(const Variable& x);
Variable relu(const Variable& x);
/// x Φ(x) with the exact normal distribution function (Hendrycks & Gimpel 2016)
Variable gelu(const Variable& x);
/// The tanh approximation of gelu used by GPT-2 and BERT
Variable gelu_tanh(const Variable& x);
/// x σ(1.702 x), the activation of OpenAI's CLIP
Variable quick_gelu(const Variable& x);
/// x σ(x)
Variable silu(const Variable& x);

/// The activations of the models' layers.
enum class Activation { kQuickGelu, kGelu, kGeluTanh, kSilu, kRelu };
Variable activate(Activation activation, const Variable& x);

/// log(1 + eˣ), without overflow; -softplus(-x) is log σ(x)
Variable softplus(const Variable& x);
/// min(max(x, low), high); no gradient outside [low, high]. Throws ValueError where low > high.
Variable clamp(const Variable& x, double low, double high);

}  // namespace tapecache::ops

namespace tapecache {

// Shorthand for the ops of `ops/elementwise.h`, found wherever an operand is a Variable, a Parameter or a Tensor; of
// constants alone, such as two tensors, the result is a constant. A number stands for a scalar of the other operand's
// dtype and device.

namespace detail {

/// What x is an operand beside. Where x is undefined or no float the op refuses it, whatever this is.
inline Variable scalar_like(const Variable& x, double value) {
  if (!x.defined()) return Tensor();
  return Tensor::full({}, value, is_floating(x.dtype()) ? x.dtype() : DType::kFloat32, x.device());
}

}  // namespace detail

inline Variable operator-(const Variable& x) { return ops::negate(x); }

inline Variable operator+(const Variable& a, const Variable& b) { return ops::add(a, b); }
inline Variable operator-(const Variable& a, const Variable& b) { return ops::subtract(a, b); }
inline Variable operator*(const Variable& a, const Variable& b) { return ops::multiply(a, b); }
inline Variable operator/(const Variable& a, const Variable& b) { return ops::divide(a, b); }

inline Variable operator+(const Variable& a, double b) { return a + detail::scalar_like(a, b); }
inline Variable operator-(const Variable& a, double b) { return a - detail::scalar_like(a, b); }
inline Variable operator*(const Variable& a, double b) { return ops::scale(a, b); }
inline Variable operator/(const Variable& a, double b) { return a / detail::scalar_like(a, b); }

inline Variable operator+(double a, const Variable& b) { return detail::scalar_like(b, a) + b; }
inline Variable operator-(double a, const Variable& b) { return detail::scalar_like(b, a) - b; }
inline Variable operator*(double a, const Variable& b) { return ops::scale(b, a); }
inline Variable operator/(double a, const Variable& b) { return detail::scalar_like(b, a) / b; }

}  // namespace tapecache

namespace tapecache::ops {

/// Sets each element to 0 with the given probability and scales the others by 1 / (1 - probability) (Srivastava et
/// al. 2014). Axis 0 of x runs over samples. The draw depends on (seed, step, call number, global sample index,
/// element within the sample), see `random_state()`; no mask is stored. A probability of 0 returns x, and takes a call
/// number all the same. Throws ValueError where the probability is not in [0, 1).
Variable dropout(const Variable& x, double probability);

/// Stochastic depth (Huang et al. 2016): sets whole samples to 0 with the given probability and scales the others by
/// 1 / (1 - probability). A sample's draw is that of its element 0; all else is as in `dropout`.
Variable drop_path(const Variable& x, double probability);

/// Constants f32 [samples, per_sample], uniform in [0, 1), drawn as dropout draws: by (seed, step, call number, global
/// sample index, element), see `random_state()`. What an encoder augments its samples with, so that a sample is altered
/// alike however the batch is cut; each call takes a call number. Brightness, up to a fifth up or down, of x [batch,
/// features]:
///
///     const Variable gain = ops::scale(ops::sample_uniform(x.size(0), 1), 0.4);
///     return encode(ops::multiply(x, ops::add(gain, Tensor::scalar(0.8f))));
///
/// Throws ShapeError where `samples` is not a multiple of the samples in view, ValueError where a size is negative.
Tensor sample_uniform(std::int64_t samples, std::int64_t per_sample, Device device = Device::cpu());

}  // namespace tapecache::ops
