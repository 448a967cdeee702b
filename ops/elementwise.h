#pragma once

#include <string_view>

#include "tapecache/autograd/variable.h"

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
/// As Hugging Face's configurations call it.
std::string_view name(Activation activation);

/// log(1 + eˣ), without overflow; -softplus(-x) is log σ(x)
Variable softplus(const Variable& x);
/// min(max(x, low), high); no gradient outside [low, high]. Throws ValueError where low > high.
Variable clamp(const Variable& x, double low, double high);

}  // namespace tapecache::ops
