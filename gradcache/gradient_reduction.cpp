#include "tapecache/gradcache/gradient_reduction.h"

#include <algorithm>

namespace tapecache::gradcache::detail {

namespace {

constexpr std::size_t kAlone = std::size_t{256} << 10;  // bytes of a gradient that is worth a call of its own
constexpr std::size_t kBucket = std::size_t{4} << 20;

Tensor flat(const Tensor& values) { return values.reshape({values.numel()}); }

}  // namespace

std::vector<Parameter> in_common_order(std::vector<Parameter> parameters) {
  std::stable_sort(parameters.begin(), parameters.end(),
                   [](const Parameter& a, const Parameter& b) { return a.name() < b.name(); });
  return parameters;
}

GradientReduction::GradientReduction(std::vector<Parameter> of_encoders, std::vector<Parameter> of_loss, bool as_tree)
    : of_encoders_(std::move(of_encoders)), of_loss_(std::move(of_loss)), as_tree_(as_tree) {}

void GradientReduction::sum(Ranks& ranks, Tensor& values) {
  if (as_tree_) ranks.sum_as_tree(values, received_);
  else ranks.sum(values);
}

void GradientReduction::prepare() {
  for (std::vector<Parameter>* const parameters : {&of_encoders_, &of_loss_}) {
    for (Parameter& p : *parameters) {
      given_.push_back(p.gradient().defined() ? 1 : 0);
      if (!p.gradient().defined()) {
        p.mutable_gradient() = Tensor::zeros(p.value().shape(), p.value().dtype(), p.value().device());
      }
    }
  }
  for (const Parameter& p : of_encoders_) {
    const Tensor& gradient = p.gradient();
    if (gradient.bytes() >= kAlone) continue;
    const auto fits = [&](const Bucket& bucket) {
      std::size_t bytes = gradient.bytes();
      for (const Parameter& other : bucket.parameters) bytes += other.gradient().bytes();
      const Tensor& first = bucket.parameters.front().gradient();
      return bytes <= kBucket && first.dtype() == gradient.dtype() && first.device() == gradient.device();
    };
    if (buckets_.empty() || !fits(buckets_.back())) buckets_.emplace_back();
    buckets_.back().parameters.push_back(p);
  }
  for (Bucket& bucket : buckets_) {
    std::int64_t elements = 0;
    for (const Parameter& p : bucket.parameters) elements += p.gradient().numel();
    const Tensor& first = bucket.parameters.front().gradient();
    bucket.values = Tensor::empty({elements}, first.dtype(), first.device());
  }
  if (!as_tree_) return;
  std::size_t largest = 0;
  for (const Bucket& bucket : buckets_) largest = std::max(largest, bucket.values.bytes());
  for (const Parameter& p : of_encoders_) largest = std::max(largest, p.gradient().bytes());
  received_ = Tensor::empty({static_cast<std::int64_t>(largest)}, DType::kUInt8);
}

void GradientReduction::run(Ranks& ranks) {
  // What no rank has, such as the gradients of a tower that the loss left out, none is given.
  if (given_.empty()) return;
  Tensor given = Tensor::wrap(given_.data(), {static_cast<std::int64_t>(given_.size())});
  ranks.maximum(given);
  for (Bucket& bucket : buckets_) {
    std::int64_t at = 0;
    for (const Parameter& p : bucket.parameters) {
      bucket.values.slice(at, at + p.gradient().numel()).copy_from(flat(p.gradient()));
      at += p.gradient().numel();
    }
    sum(ranks, bucket.values);
    at = 0;
    for (Parameter& p : bucket.parameters) {
      flat(p.gradient()).copy_from(bucket.values.slice(at, at + p.gradient().numel()));
      at += p.gradient().numel();
    }
    bucket = {};
  }
  for (Parameter& p : of_encoders_) {
    if (p.gradient().bytes() >= kAlone) sum(ranks, p.mutable_gradient());
  }
  for (Parameter& p : of_loss_) ranks.broadcast(p.mutable_gradient());
  std::size_t i = 0;
  for (std::vector<Parameter>* const parameters : {&of_encoders_, &of_loss_}) {
    for (Parameter& p : *parameters) {
      if (given_[i++] == 0) p.clear_gradient();
    }
  }
}

}  // namespace tapecache::gradcache::detail
