#include "tapecache/gradcache/ranks.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include <fmt/format.h>

#include "tapecache/core/captured_step.h"
#include "tapecache/core/random.h"
#include "tapecache/distributed/exception_text.h"
#include "tapecache/gradcache/digest.h"

namespace tapecache::gradcache::detail {

namespace {

using Agreed = distributed::Communicator::Agreed;
using distributed::CommunicationError;

enum Status { kWell, kShortOfMemory, kFailed };

constexpr std::size_t kMaxTowers = 16, kMaxOptions = 8;

/// What a rank begins a step with: one line of the header that all exchange.
struct Opening {
  std::int64_t status = kWell, call = 0, towers = 0, names = 0, seed = 0, step = 0, draws = 0, plans = 0;
  std::array<std::int64_t, kMaxOptions> options = {};
  std::array<std::int64_t, kMaxTowers> samples = {}, first_samples = {};
};

struct Field {
  const char* what;
  std::int64_t Opening::*value;
  bool is_digest = false;
};
constexpr Field kFields[] = {{"calls another step", &Opening::call, true},
                             {"has another number of towers", &Opening::towers},
                             {"has towers of other names", &Opening::names, true},
                             {"has another seed of random numbers", &Opening::seed},
                             {"is in another random step", &Opening::step},
                             {"has made another number of random draws in this step", &Opening::draws}};

Opening opening_of(const StepStart& start) {
  const std::vector<TowerShare>& towers = start.towers;
  Opening own;
  Digest names;
  own.towers = static_cast<std::int64_t>(towers.size());
  for (std::size_t t = 0; t < towers.size(); ++t) {
    names.add(towers[t].name);
    own.samples[t] = towers[t].samples;
    own.first_samples[t] = towers[t].first_sample;
  }
  own.names = names.value();
  for (std::size_t i = 0; i < start.options.size(); ++i) own.options.at(i) = start.options.number(i);
  const RandomKey& key = random_state().key;
  own.seed = std::bit_cast<std::int64_t>(key.seed);
  own.step = key.step.value;
  own.draws = key.call;
  own.plans = start.plans ? 1 : 0;
  return own;
}

/// What each rank says, in i64 alone. No allocator counts it: who is short of memory must be able to say so.
void gather_numbers(distributed::Communicator& ranks, std::int64_t* own, std::int64_t count, std::int64_t* all) {
  Tensor everyones = Tensor::wrap(all, {ranks.size(), count});
  const std::vector<std::int64_t> one_each(static_cast<std::size_t>(ranks.size()), 1);
  ranks.all_gather(Tensor::wrap(own, {1, count}), everyones, one_each);
}

/// The same of a struct of such numbers. Who has failed, and cannot tell the others, throws that.
template <class Numbers>
std::vector<Numbers> of_all(distributed::Communicator& ranks, Numbers own, const std::exception_ptr& failed) {
  std::vector<Numbers> all(static_cast<std::size_t>(ranks.size()));
  try {
    gather_numbers(ranks, reinterpret_cast<std::int64_t*>(&own), sizeof(Numbers) / sizeof(std::int64_t),
                   reinterpret_cast<std::int64_t*>(all.data()));
  } catch (const CommunicationError&) {
    if (failed) std::rethrow_exception(failed);
    throw;
  }
  return all;
}

/// Ranks of other processors may round otherwise.
bool near(double a, double b) {
  if (!std::isfinite(a) || !std::isfinite(b)) return std::isfinite(a) == std::isfinite(b);
  return std::abs(a - b) <= 1e-4 * std::max({1.0, std::abs(a), std::abs(b)});
}

std::string line_of(std::string_view text, std::size_t number) {
  std::size_t begin = 0;
  for (; number > 0 && begin < text.size(); --number) begin = std::min(text.find('\n', begin), text.size() - 1) + 1;
  const std::string_view line = text.substr(begin, text.find('\n', begin) - begin);
  return line.empty() ? "nothing more" : fmt::format("\"{}\"", line);
}

/// Where two texts begin to differ; empty where they do not.
std::string difference(std::string_view own, std::string_view reference) {
  if (own == reference) return {};
  const auto [a, b] = std::mismatch(own.begin(), own.end(), reference.begin(), reference.end());
  const auto number = static_cast<std::size_t>(std::count(own.begin(), a, '\n'));
  return fmt::format("has {}, but rank 0 {}", line_of(own, number), line_of(reference, number));
}

/// What is known of a group from one step to the next.
struct GroupNotes {
  ComparedWeights weights;
  std::exception_ptr thrown_by_all;  // the last
};

GroupNotes& notes_of(distributed::Communicator& communicator) {
  std::shared_ptr<void>& notes = communicator.notes();
  if (!notes) notes = std::make_shared<GroupNotes>();
  return *static_cast<GroupNotes*>(notes.get());
}

/// Within a handler.
bool is_thrown_by_all(distributed::Communicator& communicator) noexcept {
  const auto* const notes = static_cast<const GroupNotes*>(communicator.notes().get());
  return notes != nullptr && notes->thrown_by_all == std::current_exception();
}

Tensor bytes_of(std::string& text) {
  return Tensor::wrap(reinterpret_cast<std::uint8_t*>(text.data()), {static_cast<std::int64_t>(text.size())});
}

}  // namespace

std::vector<TowerShare> shares_of(std::span<const Tower> towers) {
  std::vector<TowerShare> shares;
  for (const Tower& tower : towers) shares.push_back({.name = tower.name(), .samples = tower.size()});
  return shares;
}

void end_unless_all_throw(distributed::Communicator* communicator) noexcept {
  if (communicator == nullptr || communicator->size() == 1) return;
  if (!is_thrown_by_all(*communicator)) distributed::detail::give_up(*communicator);
}

CommonOptions& CommonOptions::add(const char* name, std::int64_t value) {
  all_.push_back({name, value, [](std::int64_t n) { return fmt::to_string(n); }});
  return *this;
}

CommonOptions& CommonOptions::add(const char* name, double value) {
  all_.push_back({name, std::bit_cast<std::int64_t>(value),
                  [](std::int64_t bits) { return fmt::to_string(std::bit_cast<double>(bits)); }});
  return *this;
}

CommonOptions& CommonOptions::add(const char* name, bool value) {
  all_.push_back({name, value, [](std::int64_t n) { return std::string(n != 0 ? "true" : "false"); }});
  return *this;
}

CommonOptions& CommonOptions::add(const char* name, DType value) {
  all_.push_back({name, static_cast<std::int64_t>(value),
                  [](std::int64_t n) { return std::string(tapecache::name(static_cast<DType>(n))); }});
  return *this;
}

Ranks::Ranks(const char* step, distributed::Communicator* communicator)
    : step_(step), communicator_(communicator != nullptr && communicator->size() > 1 ? communicator : nullptr) {}

std::string Ranks::of(int rank) const { return fmt::format("rank {} of {}", rank, communicator_->size()); }

void Ranks::open(const std::function<StepStart()>& checks) {
  shares_.clear();
  if (!several()) {
    const StepStart start = checks();
    for (const TowerShare& tower : start.towers) {
      shares_.push_back({{tower.samples}, 0, tower.samples, tower.samples});
    }
    anyone_plans_ = start.plans;
    return;
  }
  Opening own;
  StepStart start;
  std::exception_ptr failed;
  std::string message;
  try {
    start = checks();
    if (start.towers.size() > kMaxTowers) {
      throw ValueError(fmt::format("{}: {} towers, expected at most {} with a communicator", step_, start.towers.size(),
                                   kMaxTowers));
    }
    if (CapturedStep::is_capturing()) {
      throw ValueError(fmt::format("{}: a captured step cannot have a communicator", step_));
    }
    own = opening_of(start);
  } catch (const CommunicationError&) {
    throw;
  } catch (...) {
    failed = std::current_exception();
    message = distributed::detail::exception_text();
    own.status = kFailed;
  }
  notes_of(*communicator_).thrown_by_all = nullptr;
  own.call = Digest().add(step_).value();
  const std::vector<Opening> all = of_all(*communicator_, own, failed);
  const std::size_t size = all.size();
  for (const Opening& opening : all) {
    if (opening.status != kWell) conclude(failed, static_cast<int>(own.status), message);
  }
  anyone_plans_ = std::any_of(all.begin(), all.end(), [](const Opening& o) { return o.plans != 0; });
  check_alike([&] {
    for (std::size_t r = 1; r < size; ++r) {
      for (const Field& field : kFields) {
        const auto found = static_cast<std::uint64_t>(all[r].*field.value);
        const auto expected = static_cast<std::uint64_t>(all[0].*field.value);
        if (found == expected) continue;
        throw ValueError(fmt::format("{}: {} {} than rank 0{}", step_, of(static_cast<int>(r)), field.what,
                                     field.is_digest ? "" : fmt::format(": {} in the place of {}", found, expected)));
      }
      for (std::size_t i = 0; i < start.options.size(); ++i) {
        if (all[r].options[i] == all[0].options[i]) continue;
        throw ValueError(fmt::format(
            "{}: {} has another {} than rank 0: {} in the place of {}", step_, of(static_cast<int>(r)),
            start.options.name(i), start.options.text(i, all[r].options[i]), start.options.text(i, all[0].options[i])));
      }
    }
    for (std::size_t t = 0; t < start.towers.size(); ++t) {
      Share& share = shares_.emplace_back();
      std::int64_t expected = 0;  // first sample of a rank, counted from rank 0's
      for (std::size_t r = 0; r < size; ++r) {
        share.counts.push_back(all[r].samples[t]);
        if (static_cast<int>(r) == rank()) share.first = share.total;
        const std::int64_t first = all[r].first_samples[t], reference = all[0].first_samples[t];
        expected = share.total + std::max<std::int64_t>(reference, 0);
        if (first >= 0 && first != expected) {
          throw ValueError(
              fmt::format("{}: tower '{}' of {} begins with sample {}, expected {}: those of lower ranks come "
                          "first (CachedOptions::first_sample)",
                          step_, start.towers[t].name, of(static_cast<int>(r)), first, expected));
        }
        share.total += all[r].samples[t];
      }
      share.own = start.towers[t].samples;
      if (share.total == 0) throw ValueError(fmt::format("{}: tower '{}' has no samples", step_, start.towers[t].name));
    }
  });
}

void Ranks::together(const std::function<void()>& work, const std::function<Account()>& account) {
  if (!several()) {
    work();
    return;
  }
  std::exception_ptr failed;
  std::string message;
  Account own;
  int status = kWell;
  try {
    work();
    if (account) own = account();
  } catch (const CommunicationError&) {
    throw;
  } catch (const OutOfMemory& error) {
    failed = std::current_exception();
    message = error.what();
    status = kShortOfMemory;
  } catch (...) {
    failed = std::current_exception();
    message = distributed::detail::exception_text();
    status = kFailed;
  }
  struct Line {
    std::int64_t status = kWell, digest = 0, value = 0, changes = 0;
  };
  const Line line{status, Digest().add(own.text).value(), std::bit_cast<std::int64_t>(own.value),
                  own.weights.empty() ? 0 : compared().changes(own.weights)};
  const std::vector<Line> all = of_all(*communicator_, line, failed);
  const std::size_t size = all.size();
  if (std::any_of(all.begin(), all.end(), [](const Line& l) { return l.status != kWell; })) {
    conclude(failed, status, message);
  }
  if (std::any_of(all.begin(), all.end(), [&](const Line& l) { return l.digest != all[0].digest; })) {
    tell_difference(own.text);
  }
  if (std::any_of(all.begin(), all.end(),
                  [&](const Line& l) { return l.changes == ComparedWeights::kNew || l.changes != all[0].changes; })) {
    compare_weights(own.weights);
  }
  if (!own.weights.empty()) compared().note(own.weights);
  check_alike([&] {
    const double reference = std::bit_cast<double>(all[0].value);
    for (std::size_t r = 1; r < size; ++r) {
      const double value = std::bit_cast<double>(all[r].value);
      if (near(value, reference)) continue;
      throw ValueError(fmt::format("{}: the loss of {} is {}, but that of rank 0 {}: all must take the same one", step_,
                                   of(static_cast<int>(r)), value, reference));
    }
  });
}

void Ranks::throw_on_all(const std::exception_ptr& error) {
  notes_of(*communicator_).thrown_by_all = error;
  std::rethrow_exception(error);
}

void Ranks::conclude(const std::exception_ptr& own, int status, const std::string& message) {
  const Agreed worst = communicator_->agree(status, message);
  if (own && status == worst.status) throw_on_all(own);
  const std::string text = fmt::format("{}: {}: {}", step_, of(worst.rank), worst.message);
  if (worst.status == kShortOfMemory) throw_on_all(std::make_exception_ptr(OutOfMemory(text, 0, 0, 0)));
  throw_on_all(std::make_exception_ptr(Error(text)));
}

void Ranks::tell_difference(const std::string& text) {
  auto size = static_cast<std::int64_t>(text.size());
  Tensor shared_size = Tensor::wrap(&size, {1});
  communicator_->broadcast(shared_size, 0);
  std::string reference = rank() == 0 ? text : std::string(static_cast<std::size_t>(size), '\0');
  Tensor shared = bytes_of(reference);
  communicator_->broadcast(shared, 0);
  const std::string differs = difference(text, reference);
  const Agreed told = communicator_->agree(differs.empty() ? kWell : kFailed, differs);
  throw_on_all(std::make_exception_ptr(ValueError(fmt::format("{}: {} {}", step_, of(told.rank), told.message))));
}

ComparedWeights& Ranks::compared() { return notes_of(*communicator_).weights; }

void Ranks::compare_weights(std::span<const Parameter> weights) {
  std::vector<std::int64_t> digests;
  or_fail([&] {
    for (const Parameter& p : weights) digests.push_back(digest_of_bits(p.value()));
  });
  std::vector<std::int64_t> all(digests.size() * static_cast<std::size_t>(communicator_->size()));
  gather_numbers(*communicator_, digests.data(), static_cast<std::int64_t>(digests.size()), all.data());
  check_alike([&] {
    for (std::size_t i = digests.size(); i < all.size(); ++i) {
      const std::size_t parameter = i % digests.size();
      if (all[i] == all[parameter]) continue;
      throw ValueError(fmt::format("{}: {} has other values of parameter '{}' than rank 0", step_,
                                   of(static_cast<int>(i / digests.size())), weights[parameter].name()));
    }
  });
}

void Ranks::or_fail(const std::function<void()>& work) {
  if (several()) distributed::detail::or_give_up(*communicator_, work);
  else work();
}

bool Ranks::all_throw() const noexcept { return !several() || is_thrown_by_all(*communicator_); }

bool Ranks::any(bool here) {
  if (!several()) return here;
  std::int64_t value = here ? 1 : 0;
  Tensor shared = Tensor::wrap(&value, {1});
  communicator_->all_reduce(shared, distributed::Communicator::Reduction::kMax);
  return value != 0;
}

void Ranks::share_status(StepResult& result) {
  if (!several()) return;
  const Agreed worst = communicator_->agree(static_cast<int>(result.status), result.message);
  if (worst.status == 0) return;
  result.status = static_cast<StepStatus>(worst.status);
  result.message = worst.message;
  if (result.non_finite.item() == 0) result.non_finite = 1;  // it was another rank's
}

/// By way of the host, where the backend does not take the device. A rank that cannot do that ends all.
template <class Call>
void Ranks::on_host(Tensor& tensor, Call call) {
  if (communicator_->takes(tensor.device())) {
    call(tensor);
    return;
  }
  or_fail([&] {
    Tensor host = tensor.to(Device::cpu());
    call(host);
    tensor.copy_from_async(host);
  });
}

void Ranks::gather(const Tensor& rows, Tensor& all, const Share& share) {
  on_host(all, [&](Tensor& into) { communicator_->all_gather(rows.to(into.device()), into, share.counts); });
}

void Ranks::sum(Tensor& values) {
  on_host(values, [&](Tensor& v) { communicator_->all_reduce(v); });
}

Device Ranks::place_of(Device device) const { return communicator_->takes(device) ? device : Device::cpu(); }

void Ranks::sum_as_tree(Tensor& values, Tensor room) {
  on_host(values, [&](Tensor& own) {
    Tensor received = room.reshape(own.shape());
    for (int distance = 1; distance < communicator_->size(); distance *= 2) {
      const int other = communicator_->rank() ^ distance;
      communicator_->send_receive(own, other, received, other);
      own.accumulate(received);
    }
  });
}

void Ranks::maximum(Tensor& values) {
  on_host(values, [&](Tensor& v) { communicator_->all_reduce(v, distributed::Communicator::Reduction::kMax); });
}

void Ranks::broadcast(Tensor& values) {
  on_host(values, [&](Tensor& v) { communicator_->broadcast(v, 0); });
}

}  // namespace tapecache::gradcache::detail
