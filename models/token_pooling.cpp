#include "tapecache/models/token_batch.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "tapecache/models/sentence_modules.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/reduce.h"
#include "tapecache/ops/tokens.h"

namespace tapecache::models {

namespace {

struct Named {
  std::string_view name;
  TokenPooling pooling;
};

constexpr std::array<Named, 6> kNames{{{"cls", TokenPooling::kCls},
                                       {"max", TokenPooling::kMax},
                                       {"mean", TokenPooling::kMean},
                                       {"mean_sqrt_len_tokens", TokenPooling::kMeanSqrtLength},
                                       {"weightedmean", TokenPooling::kWeightedMean},
                                       {"lasttoken", TokenPooling::kLastToken}}};

/// The place of each token of its text, from 1; 0 for padding: [batch, tokens] of x's type.
Tensor places(const Variable& x, const Tensor& valid) {
  const Tensor all = valid.defined() ? valid : Tensor::full({x.size(0), x.size(1)}, 1, DType::kBool, x.device());
  return ops::token_positions(all, 1).to(x.dtype());
}

Variable mean_by_root_of_length(const Variable& x, const Tensor& valid) {
  const Variable length = ops::max(places(x, valid), 1);
  return ops::multiply(ops::mean_pool(x, valid), ops::reshape(ops::sqrt(length), {x.size(0), 1}));
}

Variable weighted_mean(const Variable& x, const Tensor& valid) {
  const Variable weights = places(x, valid);
  const Variable weighted = ops::multiply(x, ops::reshape(weights, {x.size(0), x.size(1), 1}));
  return ops::divide(ops::sum(weighted, 1), ops::reshape(ops::sum(weights, 1), {x.size(0), 1}));
}

}  // namespace

std::string_view name(TokenPooling pooling) {
  const auto found = std::ranges::find(kNames, pooling, &Named::pooling);
  if (found != kNames.end()) return found->name;
  throw ValueError(fmt::format("token pooling: {}, expected one there is", static_cast<int>(pooling)));
}

std::optional<TokenPooling> token_pooling(std::string_view name) {
  const auto found = std::ranges::find(kNames, name, &Named::name);
  return found == kNames.end() ? std::nullopt : std::optional(found->pooling);
}

Variable pool_tokens(const Variable& x, const Tensor& valid, TokenPooling pooling) {
  switch (pooling) {
    case TokenPooling::kCls:
      return ops::cls_pool(x, valid);
    case TokenPooling::kMax:
      return ops::max_pool(x, valid);
    case TokenPooling::kMean:
      return ops::mean_pool(x, valid);
    case TokenPooling::kMeanSqrtLength:
      return mean_by_root_of_length(x, valid);
    case TokenPooling::kWeightedMean:
      return weighted_mean(x, valid);
    case TokenPooling::kLastToken:
      return ops::last_token_pool(x, valid);
  }
  throw ValueError(fmt::format("token pooling: {}, expected one there is", static_cast<int>(pooling)));
}

}  // namespace tapecache::models
