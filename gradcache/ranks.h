#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tapecache/distributed/communicator.h"
#include "tapecache/gradcache/step.h"
#include "tapecache/gradcache/weights.h"

#pragma GCC visibility push(hidden)

/// The processes that take a step together. Private to gradcache.
namespace tapecache::gradcache::detail {

/// Who has which samples of a tower.
struct Share {
  std::vector<std::int64_t> counts;  // of each rank
  std::int64_t first = 0;            // this rank's first, in the whole batch
  std::int64_t own = 0;
  std::int64_t total = 0;

  bool whole() const { return own == total; }
};

/// What a rank has of a tower when a step begins.
struct TowerShare {
  std::string name;
  std::int64_t samples = 0;
  std::int64_t first_sample = -1;  // that random draws were made for, where any were made before the step
};

std::vector<TowerShare> shares_of(std::span<const Tower> towers);

/// What all ranks must be told alike, by the names of options.
class CommonOptions {
 public:
  CommonOptions& add(const char* name, std::int64_t value);
  CommonOptions& add(const char* name, double value);
  CommonOptions& add(const char* name, bool value);
  CommonOptions& add(const char* name, DType value);

  std::size_t size() const { return all_.size(); }
  std::int64_t number(std::size_t i) const { return all_[i].number; }
  const char* name(std::size_t i) const { return all_[i].name; }
  /// The option with another rank's number.
  std::string text(std::size_t i, std::int64_t number) const { return all_[i].text(number); }

 private:
  struct Option {
    const char* name;
    std::int64_t number;
    std::string (*text)(std::int64_t);
  };
  std::vector<Option> all_;
};

/// What a rank begins a step with.
struct StepStart {
  std::vector<TowerShare> towers;
  CommonOptions options = {};  // the same names on all ranks; only looked at where there are several
  bool plans = false;          // whether this rank measures what fits a budget before it goes on
};

/// What all ranks must have in common, to go on.
struct Account {
  std::string text = {};                // line by line
  double value = 0;                     // but for rounding
  std::vector<Parameter> weights = {};  // to the bit; all have as many
};

/// Within a handler: this rank gives up, unless what was thrown is thrown by all.
void end_unless_all_throw(distributed::Communicator* communicator) noexcept;

/// Does this rank's part of what a group does. Where it fails here alone, whatever it was that failed, the group ends,
/// so that no rank waits for this one.
template <class Work>
auto of_group(distributed::Communicator* communicator, const Work& work) {
  try {
    return work();
  } catch (...) {
    end_unless_all_throw(communicator);
    throw;
  }
}

/// What a step asks of the others, within `of_group`. Alone, without a communicator or in a group of one, each of these
/// is nothing but the work that it is given.
///
/// Whatever may fail on one rank is done `together`: then it fails on all, and no rank waits for one that has given up.
class Ranks {
 public:
  /// `step` is for messages.
  Ranks(const char* step, distributed::Communicator* communicator);

  /// Of a rank that does by itself a part of a step that is opened.
  Ranks(const char* step, std::vector<Share> shares)
      : step_(step), communicator_(nullptr), shares_(std::move(shares)) {}

  bool several() const { return communicator_ != nullptr; }
  int rank() const { return several() ? communicator_->rank() : 0; }

  /// The first call of a step: checks what this rank can, then compares with the others what all must begin with, and
  /// tells who has which samples. Throws ValueError on every rank, naming the one that differs.
  void open(const std::function<StepStart()>& checks);
  const std::vector<Share>& shares() const { return shares_; }
  /// Whether any rank plans: then all wait for it, whatever they are cut by.
  bool anyone_plans() const { return anyone_plans_; }

  /// Does what may fail here alone. Where it fails on any rank, all throw: the one that failed its own exception, the
  /// others an Error that names it, or OutOfMemory where that is all that any rank has met. Where it does not, but
  /// ranks' accounts differ, all throw ValueError. Weights are looked at where the group has not met them before, or
  /// where one rank has changed them more often than another since then.
  void together(const std::function<void()>& work, const std::function<Account()>& account = {});
  /// Does what calls the others itself: where it fails here, this rank ends the group, so that none waits for it.
  void or_fail(const std::function<void()>& work);
  /// Within a handler: whether what was thrown is thrown by all.
  bool all_throw() const noexcept;
  /// Looks at what is alike on all ranks, so that all throw where this throws ValueError.
  template <class Check>
  void check_alike(const Check& check) {
    try {
      check();
    } catch (const ValueError&) {
      if (!several()) throw;
      throw_on_all(std::current_exception());
    }
  }
  /// Whether it holds for any rank.
  bool any(bool here);
  /// Sets status and message to those of the rank that fares worst.
  void share_status(StepResult& result);

  void gather(const Tensor& rows, Tensor& all, const Share& share);
  void sum(Tensor& values);
  /// Where calls take a device's tensors: there, or on the host.
  Device place_of(Device device) const;
  /// Of 2^n ranks: neighbours first, then pairs of neighbours, and so on. `room` has as many elements as the values, of
  /// their type, in their place.
  void sum_as_tree(Tensor& values, Tensor room);
  void maximum(Tensor& values);
  void broadcast(Tensor& values);

 private:
  [[noreturn]] void throw_on_all(const std::exception_ptr& error);
  [[noreturn]] void conclude(const std::exception_ptr& own, int status, const std::string& message);
  [[noreturn]] void tell_difference(const std::string& text);
  void compare_weights(std::span<const Parameter> weights);
  ComparedWeights& compared();
  template <class Call>
  void on_host(Tensor& tensor, Call call);
  std::string of(int rank) const;

  const char* step_;
  distributed::Communicator* communicator_;
  std::vector<Share> shares_;
  bool anyone_plans_ = false;
};

}  // namespace tapecache::gradcache::detail

#pragma GCC visibility pop
