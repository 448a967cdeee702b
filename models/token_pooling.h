#pragma once

#include <optional>
#include <string_view>

#include "tapecache/autograd/variable.h"

namespace tapecache::models {

/// How one vector is made of a text's tokens, as sentence-transformers' `Pooling` does it. Padding, on either side,
/// takes no part.
enum class TokenPooling {
  kCls,             ///< the first token
  kMax,             ///< the largest of each feature
  kMean,            ///<
  kMeanSqrtLength,  ///< the sum over the square root of the number of tokens
  kWeightedMean,    ///< the mean with weights 1, 2, 3, …
  kLastToken,       ///<
};

/// As `Pooling` calls it: "cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken".
std::string_view name(TokenPooling pooling);
/// None for a name that there is not.
std::optional<TokenPooling> token_pooling(std::string_view name);

/// x [batch, tokens, width] to [batch, width]; `valid` bool [batch, tokens], or undefined where there is no padding.
/// Throws ShapeError, and ValueError for a text without a valid token.
Variable pool_tokens(const Variable& x, const Tensor& valid, TokenPooling pooling);

}  // namespace tapecache::models
