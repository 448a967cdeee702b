#include "rank_attack.h"

#include <array>
#include <barrier>
#include <chrono>
#include <cmath>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <string_view>

#include <fmt/format.h>
#include <boost/test/unit_test.hpp>

#include "attack.h"
#include "compare.h"
#include "tapecache/core/error.h"

namespace tapecache::testing {

using distributed::CommunicationError;
using distributed::Communicator;
using gradcache::StepResult;

namespace {

constexpr int kRanks = 2;
constexpr std::chrono::milliseconds kLimit = std::chrono::seconds(10);

bool same(const Tensor& a, const Tensor& b) { return a.defined() == b.defined() && (!a.defined() || same_bits(a, b)); }

/// How a rank ends a step. It is filled while allocations may fail: nothing here needs any.
struct Ending {
  enum class How { kDone, kNoMemory, kGroupEnded, kError, kForeign } how = How::kDone;
  std::array<char, 400> text = {};
  bool here = false;  // whether the allocation that failed was this rank's, as far as its thread can tell
  double loss = 0;

  bool threw() const { return how != How::kDone; }
  std::string_view says() const { return text.data(); }
  void note(How what, const char* message) {
    how = what;
    std::strncpy(text.data(), message, text.size() - 1);
  }
};

Ending ending_of(const std::function<gradcache::StepResult()>& step) {
  Ending ending;
  try {
    const gradcache::StepResult result = step();
    ending.loss = result.status == gradcache::StepStatus::kDone ? result.loss.item() : std::nan("");
  } catch (const OutOfMemory& error) {
    ending.note(Ending::How::kNoMemory, error.what());
    ending.here = error.in_use() > 0;  // of another rank's it does not say how much
  } catch (const std::bad_alloc& error) {
    ending.note(Ending::How::kNoMemory, error.what());
  } catch (const CommunicationError& error) {
    ending.note(Ending::How::kGroupEnded, error.what());
  } catch (const Error& error) {
    ending.note(Ending::How::kError, error.what());
  } catch (const std::exception& error) {
    ending.note(Ending::How::kForeign, error.what());
  }
  return ending;
}

/// What a step has left on a rank.
struct Left {
  double loss = 0;
  std::vector<Tensor> tensors;
  RandomState random = {};

  Left() = default;
  Left(const Rank& rank, double l) : loss(l), tensors{rank.forwards.clone()}, random(random_state()) {
    for (const Parameter& p : rank.parameters()) {
      tensors.push_back(p.value().clone());
      tensors.push_back(p.gradient().defined() ? p.gradient().clone() : Tensor());
    }
  }

  bool like(const Left& other, double tolerance) const {
    if (!(std::abs(loss - other.loss) <= tolerance) || !(random == other.random)) return false;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const Tensor &a = tensors[i], &b = other.tensors[i];
      if (a.defined() != b.defined()) return false;
      if (a.defined() && !same_bits(a, b) && !(max_difference(a, b) <= tolerance)) return false;
    }
    return true;
  }
};

struct Tried {
  Ending ending;
  bool as_before = true;      // where it threw
  bool group_goes_on = true;  // after that
  std::optional<Left> left, again;
};

class RankAttack {
 public:
  RankAttack(const RankStep& step, Memory memory) : step_(step), memory_(memory) {
    for (int r = 0; r < kRanks; ++r) ranks_.emplace_back(r);
    in_peace_ = again();
    for (const Left& left : in_peace_) BOOST_REQUIRE(std::isfinite(left.loss));
  }

  /// False where there are fewer allocations than this.
  bool fail(std::uint64_t number) {
    std::vector<Tried> tried(kRanks);
    std::barrier<> all(kRanks);
    std::optional<FailingAllocation> failing;
    bool failed = false;
    distributed::run_in_threads(
        kRanks, [&](Communicator& group) { try_once(group, number, tried, all, failing, failed); }, kLimit);
    if (!failed) return false;
    const bool ended = !tried[0].group_goes_on;
    const std::vector<Left> later = ended ? again() : std::vector<Left>();
    for (std::size_t r = 0; r < tried.size() && ended; ++r) tried[r].again = later[r];
    const std::string wrong = wrong_of(tried);
    count_attack(tried[0].ending.threw() || tried[1].ending.threw(), !wrong.empty());
    if (!wrong.empty()) {
      BOOST_ERROR(fmt::format("{}: where allocation {} of {} failed, it {} (rank 0: {}; rank 1: {})", step_.name,
                              number, to_string(memory_), wrong, tried[0].ending.says(), tried[1].ending.says()));
    }
    return true;
  }

 private:
  void try_once(Communicator& group, std::uint64_t number, std::vector<Tried>& tried, std::barrier<>& all,
                std::optional<FailingAllocation>& failing, bool& failed) {
    Rank& rank = ranks_[static_cast<std::size_t>(group.rank())];
    Tried& own = tried[static_cast<std::size_t>(group.rank())];
    rank.prepare();
    const std::function<gradcache::StepResult()> step = step_.of(rank, group);
    FailingAllocation::failed_here() = false;
    all.arrive_and_wait();
    if (group.rank() == 0) failing.emplace(memory_, number);
    all.arrive_and_wait();
    own.ending = ending_of(step);
    own.ending.here = own.ending.here || FailingAllocation::failed_here();
    all.arrive_and_wait();
    if (group.rank() == 0) failed = failing->end();
    all.arrive_and_wait();
    own.group_goes_on = group.failure().empty();
    if (!own.ending.threw()) {
      own.left = Left(rank, own.ending.loss);
      return;
    }
    own.as_before = rank.as_prepared();
    if (!own.group_goes_on) return;
    rank.prepare();
    const double loss = step().loss.item();
    own.again = Left(rank, loss);
  }

  /// By a group of its own.
  std::vector<Left> again() {
    std::vector<Left> left(kRanks);
    distributed::run_in_threads(
        kRanks,
        [&](Communicator& group) {
          Rank& rank = ranks_[static_cast<std::size_t>(group.rank())];
          rank.prepare();
          const double loss = step_.of(rank, group)().loss.item();
          left[static_cast<std::size_t>(group.rank())] = Left(rank, loss);
        },
        kLimit);
    return left;
  }

  /// What is wrong with how the ranks ended, empty for nothing.
  std::string wrong_of(const std::vector<Tried>& tried) const {
    const bool threw = tried[0].ending.threw(),
               no_memory =
                   std::ranges::any_of(tried, [](const Tried&one) { return one.ending.how == Ending::How::kNoMemory; }),
               here = std::ranges::any_of(tried, [](const Tried&one) { return one.ending.here; });
    for (std::size_t r = 0; r < tried.size(); ++r) {
      const Tried& one = tried[r];
      const Ending& ending = one.ending;
      if (ending.threw() != threw) return "threw on one rank alone";
      if (ending.how == Ending::How::kForeign) return "threw something that is no Error";
      if (ending.says().find(" ms in ") != std::string_view::npos) return "kept a rank waiting until the limit";
      if (!threw) {
        if (!one.left->like(in_peace_[r], step_.tolerance)) return fmt::format("left something else on rank {}", r);
        continue;
      }
      if (!no_memory) return "threw, but no rank for want of memory";
      if (!here && memory_ == Memory::kTensors) return "threw another rank's error where it was";
      if (ending.here && ending.how != Ending::How::kNoMemory) {
        return fmt::format("threw something else on rank {}, where it was", r);
      }
      if (!one.as_before) return fmt::format("threw and changed something on rank {}", r);
      if (!one.again->like(in_peace_[r], step_.tolerance)) return fmt::format("is wrong on rank {}, done again", r);
    }
    return {};
  }

  const RankStep& step_;
  Memory memory_;
  std::deque<Rank> ranks_;
  std::vector<Left> in_peace_;
};

}  // namespace

Rank::Rank(int rank) : number(rank), begin(rank == 0 ? 0 : 4), end(rank == 0 ? 4 : kSamples) {
  setup.image.w1.set_name("image.w1"), setup.image.b1.set_name("image.b1"), setup.image.w2.set_name("image.w2");
  for (const Parameter& p : parameters()) {
    values.push_back(p.value().clone());
    // One has none yet.
    gradients.push_back(gradients.size() == 1 ? Tensor() : random_values(p.value().shape(), 40 + gradients.size()));
  }
}

void Rank::prepare() {
  begin_random_step(1, 2);
  forwards.fill(0);
  std::size_t i = 0;
  for (Parameter p : parameters()) {
    if (gradients[i].defined()) p.mutable_gradient() = gradients[i].clone();
    else p.clear_gradient();
    ++i;
  }
}

bool Rank::as_prepared() const {
  const RandomState random = random_state();
  begin_random_step(1, 2);
  if (!(random == random_state()) || forwards.item() != 0) return false;
  std::size_t i = 0;
  for (const Parameter& p : parameters()) {
    if (!same(p.value(), values[i]) || !same(p.gradient(), gradients[i])) return false;
    ++i;
  }
  return true;
}

std::vector<Tower> Rank::towers() const {
  const auto image = [this](const Tensor& x) -> gradcache::Encoded {
    if (!forward_context().recompute) {
      Tensor count = forwards;
      before_change(count);
      count.mutable_data<double>()[0] += static_cast<double>(x.size(0));
    }
    const Variable value = setup.image(x);
    return {{{"", value}}, {{"size", ops::sum(ops::multiply(value, value), {1}), 0.5}}};
  };
  return {{"image", own(setup.images), image}, {"text", own(setup.texts), setup.text}};
}

std::int64_t attack_ranks(const RankStep& step, Memory memory, std::int64_t stride) {
  RankAttack attack(step, memory);
  std::int64_t failures = 0;
  const auto next = static_cast<std::uint64_t>(whole_attack() ? 1 : stride);
  for (std::uint64_t number = 1; attack.fail(number); number += next) ++failures;
  BOOST_TEST(failures > 0, step.name << ": nothing was allocated");
  BOOST_TEST_MESSAGE(fmt::format("{}: {} failed allocations of {}", step.name, failures, to_string(memory)));
  return failures;
}

}  // namespace tapecache::testing
