#include "tapecache/gradcache/gradient_reduction.h"

#include <algorithm>
#include <exception>
#include <utility>

namespace tapecache::gradcache::detail {

namespace {

constexpr std::size_t kAlone = std::size_t{256} << 10;  // bytes of a gradient that is worth a call of its own

bool is_alone(const Parameter& p) { return p.value().bytes() >= kAlone; }

Tensor flat(const Tensor& values) { return values.reshape({values.numel()}); }

/// Notes whether it has a gradient, and sees to it that it has one.
std::int64_t given_or_zeros(Parameter& p) {
  if (p.gradient().defined()) return 1;
  p.mutable_gradient() = Tensor::zeros(p.value().shape(), p.value().dtype(), p.value().device());
  return 0;
}

bool is_like(const Tensor& a, const Tensor& b) { return a.dtype() == b.dtype() && a.device() == b.device(); }

/// Of rooms of each type on each device the one of this.
std::vector<Tensor>::iterator room_of(std::vector<Tensor>& rooms, DType dtype, Device device) {
  return std::ranges::find_if(rooms, [&](const Tensor& r) { return r.dtype() == dtype && r.device() == device; });
}

/// Sees to it that there is one of so many elements.
void enlarge(std::vector<Tensor>& rooms, std::int64_t elements, DType dtype, Device device) {
  const auto known = room_of(rooms, dtype, device);
  if (elements == 0 || (known != rooms.end() && known->numel() >= elements)) return;
  if (known != rooms.end()) rooms.erase(known);
  rooms.push_back(Tensor::empty({elements}, dtype, device));
}

}  // namespace

std::vector<Parameter> in_common_order(std::vector<Parameter> parameters) {
  std::stable_sort(parameters.begin(), parameters.end(),
                   [](const Parameter& a, const Parameter& b) { return a.name() < b.name(); });
  return parameters;
}

GradientReduction::GradientReduction(Ranks& ranks, std::vector<Parameter> parameters, const ReductionOptions& options,
                                     bool as_tree)
    : ranks_(ranks), options_(options), as_tree_(as_tree) {
  for (Parameter& p : parameters) members_.push_back({std::move(p)});
}

GradientReduction::~GradientReduction() {
  if (!thread_.joinable()) return;
  give_up();
  thread_.join();
}

void GradientReduction::begin(std::span<const Parameter> expected) {
  if (members_.empty()) return;
  std::vector<std::int64_t> order;
  for (const Parameter& p : expected) {
    const auto found = std::ranges::find(members_, p, &Member::parameter);
    order.push_back(found - members_.begin());
  }
  Tensor shared = Tensor::wrap(order.data(), {static_cast<std::int64_t>(order.size())});
  ranks_.broadcast(shared);
  std::vector<Member> ordered;
  for (const std::int64_t i : order) ordered.push_back(members_[static_cast<std::size_t>(i)]);
  members_ = std::move(ordered);
  make_buckets();
  const auto on_device = [](const Member& member) { return !member.parameter.value().device().is_cpu(); };
  if (!options_.overlap || std::ranges::any_of(members_, on_device)) return;
  try {
    thread_ = std::thread([this] {
      try {
        reduce_all();
      } catch (...) {
        error_ = std::current_exception();
      }
    });
  } catch (const std::exception&) {  // no thread, or no memory for it: the same calls, later
  }
}

void GradientReduction::make_buckets() {
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < members_.size(); ++i) {
    const Tensor& value = members_[i].parameter.value();
    bytes += value.bytes();
    const bool fits = !buckets_.empty() && bytes <= options_.bucket_bytes &&
                      is_like(members_[buckets_.back().begin].parameter.value(), value);
    if (!fits) {
      buckets_.push_back({i, i, 0});
      bytes = value.bytes();
    }
    ++buckets_.back().end;
    ++buckets_.back().missing;
    member_of_[members_[i].parameter.id()] = i;
    bucket_of_.push_back(buckets_.size() - 1);
  }
}

void GradientReduction::make_room() {
  for (const Bucket& bucket : buckets_) {
    std::int64_t together = 0, largest = 0;
    for (const Member& member : members_of(bucket)) {
      const Tensor& value = member.parameter.value();
      if (is_alone(member.parameter)) largest = std::max(largest, value.numel());
      else together += value.numel();
    }
    const Tensor& like = members_[bucket.begin].parameter.value();
    enlarge(joined_, together, like.dtype(), like.device());
    if (!as_tree_) continue;
    enlarge(received_, std::max(together, largest), like.dtype(), ranks_.place_of(like.device()));
  }
}

void GradientReduction::complete(const Parameter& parameter) {
  const std::size_t i = member_of_.at(parameter.id());
  Member& member = members_[i];
  if (member.complete) return;
  member.given = given_or_zeros(member.parameter);
  const std::lock_guard lock(mutex_);
  member.complete = true;
  if (--buckets_[bucket_of_[i]].missing == 0) changed_.notify_all();
}

void GradientReduction::complete_all() {
  for (const Member& member : members_) complete(member.parameter);
}

void GradientReduction::give_up() noexcept {
  const std::lock_guard lock(mutex_);
  gave_up_ = true;
  changed_.notify_all();
}

void GradientReduction::finish() {
  if (thread_.joinable()) thread_.join();
  else reduce_all();
  if (error_) std::rethrow_exception(error_);
  joined_.clear();
  received_.clear();
}

bool GradientReduction::is_complete(const Bucket& bucket) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return gave_up_ || bucket.missing == 0; });
  return bucket.missing == 0;
}

void GradientReduction::reduce_all() {
  ranks_.or_fail([&] {
    for (const Bucket& bucket : buckets_) {
      // First whether this rank has given up, then which gradients it has.
      std::vector<std::int64_t> told{is_complete(bucket) ? 0 : 1};
      for (const Member& member : members_of(bucket)) told.push_back(told[0] == 0 ? member.given : 0);
      Tensor shared = Tensor::wrap(told.data(), {static_cast<std::int64_t>(told.size())});
      ranks_.maximum(shared);
      if (told[0] != 0) return;
      std::size_t i = 0;
      for (Member& member : members_of(bucket)) {
        member.given = told[++i];
        if (member.given == 0) member.parameter.clear_gradient();
      }
      reduce(bucket);
    }
  });
}

/// Of those that any rank has.
void GradientReduction::reduce(const Bucket& bucket) {
  std::int64_t elements = 0;
  const auto travels_with_others = [](const Member& member) {
    return member.given != 0 && !is_alone(member.parameter);
  };
  for (const Member& member : members_of(bucket)) {
    if (travels_with_others(member)) elements += member.parameter.value().numel();
  }
  if (elements > 0) {
    const Tensor& like = members_[bucket.begin].parameter.value();
    Tensor joined = room_of(joined_, like.dtype(), like.device())->slice(0, elements);
    const auto each = [&](const auto& copy) {
      std::int64_t at = 0;
      for (Member& member : members_of(bucket)) {
        if (!travels_with_others(member)) continue;
        Tensor part = joined.slice(at, at + member.parameter.value().numel());
        Tensor gradient = flat(member.parameter.gradient());
        copy(part, gradient);
        at += part.numel();
      }
    };
    each([](Tensor& part, const Tensor& gradient) { part.copy_from(gradient); });
    sum(joined);
    each([](const Tensor& part, Tensor& gradient) { gradient.copy_from(part); });
  }
  for (Member& member : members_of(bucket)) {
    if (member.given != 0 && is_alone(member.parameter)) sum(member.parameter.mutable_gradient());
  }
}

void GradientReduction::sum(Tensor& values) {
  if (!as_tree_) return ranks_.sum(values);
  const Tensor& room = *room_of(received_, values.dtype(), ranks_.place_of(values.device()));
  ranks_.sum_as_tree(values, room.slice(0, values.numel()));
}

void GradientsOfLoss::make_room() {
  for (Parameter& p : parameters_) given_.push_back(given_or_zeros(p));
}

void GradientsOfLoss::take(Ranks& ranks) {
  if (parameters_.empty()) return;
  Tensor given = Tensor::wrap(given_.data(), {static_cast<std::int64_t>(given_.size())});
  ranks.maximum(given);
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    ranks.broadcast(parameters_[i].mutable_gradient());
    if (given_[i] == 0) parameters_[i].clear_gradient();
  }
}

}  // namespace tapecache::gradcache::detail
