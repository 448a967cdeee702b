#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <exception>
#include <functional>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <boost/test/unit_test.hpp>

#include "attack.h"
#include "compare.h"
#include "gradcache_checks.h"
#include "tapecache/core/error.h"
#include "tapecache/distributed/communicator.h"

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;
using distributed::Communicator;
using distributed::run_in_threads;

namespace {

constexpr int kRanks = 2;
constexpr std::int64_t kSamples = 8;
constexpr std::chrono::milliseconds kLimit = std::chrono::seconds(30);

/// How one rank ends, and with what. It is filled while allocations may fail: nothing here needs any.
struct Ending {
  bool threw = false, out_of_memory = false, foreign = false;
  double loss = 0;
  bool as_before = false;         // parameters, gradients and random state
  std::vector<Tensor> gradients;  // of a step that is done
  RandomState random = {};
};

enum class Kind { kWhole, kInfoNce, kClip, kSiglip };

const char* name_of(Kind kind) {
  switch (kind) {
    case Kind::kWhole:
      return "clip_loss of all on each rank";
    case Kind::kInfoNce:
      return "shared info_nce";
    case Kind::kClip:
      return "shared clip_loss";
    case Kind::kSiglip:
      return "shared siglip_loss";
  }
  return "unknown";
}

/// Steps of two ranks, uneven ones.
struct RankSteps {
  Kind kind;
  StepOptions options;
  bool direct = false;

  std::string name() const { return fmt::format("{} of {}", direct ? "direct_step" : "cached_step", name_of(kind)); }

  Loss loss(const ClipSetup& setup, const Parameter& bias, Communicator& ranks) const {
    const Scale log = Scale::from_log(setup.log_scale);
    return [=, this, group = &ranks](std::span<const Variable> r) {
      switch (kind) {
        case Kind::kInfoNce:
          return info_nce(r[0], r[1], {.scale = log, .communicator = group});
        case Kind::kClip:
          return clip_loss(r[0], r[1], {.scale = log, .communicator = group});
        case Kind::kSiglip:
          return siglip_loss(r[0], r[1], {.scale = log, .bias = bias, .communicator = group});
        case Kind::kWhole:
          break;
      }
      return clip_loss(r[0], r[1], {.scale = log});
    };
  }

  /// `arm` is called on rank 0 when all are ready.
  std::vector<Ending> take(const std::function<void()>& arm) const {
    std::vector<Ending> endings(kRanks);
    try {
      run_in_threads(
          kRanks, [&](Communicator& ranks) { one_rank(ranks, arm, endings); }, kLimit);
    } catch (const std::exception&) {
      // What each rank had is in its ending.
    }
    return endings;
  }

 private:
  void one_rank(Communicator& ranks, const std::function<void()>& arm, std::vector<Ending>& endings) const {
    Ending& ending = endings[static_cast<std::size_t>(ranks.rank())];
    const ClipSetup setup(kSamples, DType::kFloat64, 0.2);
    const Parameter bias("bias", Tensor::full({}, -0.7, DType::kFloat64));
    std::vector<Parameter> parameters = joined({setup.parameters(), {bias}});
    std::vector<Tensor> values, gradients;
    for (Parameter& p : parameters) {
      values.push_back(p.value().clone());
      // One has none yet.
      gradients.push_back(gradients.size() == 1 ? Tensor() : random_values(p.value().shape(), 40 + gradients.size()));
      if (gradients.back().defined()) p.mutable_gradient() = gradients.back().clone();
    }
    const std::int64_t begin = ranks.rank() == 0 ? 0 : 5, end = ranks.rank() == 0 ? 5 : kSamples;
    const std::vector<Tower> towers{{"image", setup.images.slice(begin, end), setup.image},
                                    {"text", setup.texts.slice(begin, end), setup.text}};
    StepOptions own = options;
    own.communicator = &ranks;
    own.shared_loss = kind != Kind::kWhole;
    const Loss taken = loss(setup, bias, ranks);
    ending.gradients.resize(parameters.size());
    begin_random_step(1, 2);
    const RandomState random = random_state();
    try {
      ranks.barrier();
      if (ranks.rank() == 0) arm();
      ranks.barrier();
      const StepResult result = direct ? direct_step(towers, taken, own.direct()) : cached_step(towers, taken, own);
      ending.loss = result.status == StepStatus::kDone ? result.loss.item() : std::nan("");
    } catch (const OutOfMemory&) {
      ending.threw = ending.out_of_memory = true;
    } catch (const std::bad_alloc&) {
      ending.threw = ending.out_of_memory = true;
    } catch (const Error&) {
      ending.threw = true;
    } catch (...) {
      ending.threw = ending.foreign = true;
    }
    ending.random = random_state();
    ending.as_before = ending.random == random;
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const Tensor& gradient = parameters[i].gradient();
      ending.as_before = ending.as_before && same_bits(parameters[i].value(), values[i]) &&
                         gradient.defined() == gradients[i].defined() &&
                         (!gradient.defined() || same_bits(gradient, gradients[i]));
      ending.gradients[i] = gradient;
    }
  }
};

bool same_ending(const Ending& a, const Ending& b, double tolerance) {
  if (a.threw || b.threw || !(std::abs(a.loss - b.loss) <= tolerance) || !(a.random == b.random)) return false;
  for (std::size_t i = 0; i < a.gradients.size(); ++i) {
    const Tensor &x = a.gradients[i], &y = b.gradients[i];
    if (x.defined() != y.defined()) return false;
    if (x.defined() && !(max_difference(x, y) <= tolerance)) return false;
  }
  return true;
}

/// What is wrong with how the ranks ended, empty for nothing.
std::string wrong(const std::vector<Ending>& found, const std::vector<Ending>& in_peace, double tolerance) {
  bool any_threw = false, all_threw = true, any_memory = false;
  for (const Ending& ending : found) {
    any_threw = any_threw || ending.threw;
    all_threw = all_threw && ending.threw;
    any_memory = any_memory || ending.out_of_memory;
    if (ending.foreign) return "threw something that is no Error";
  }
  if (any_threw && !all_threw) return "threw on one rank alone";
  for (std::size_t r = 0; r < found.size(); ++r) {
    if (all_threw && !found[r].as_before) return fmt::format("threw and changed something on rank {}", r);
    if (!all_threw && !same_ending(found[r], in_peace[r], tolerance)) {
      return fmt::format("did not throw and left something else on rank {}", r);
    }
  }
  if (all_threw && !any_memory) return "threw, but no rank for want of memory";
  return {};
}

/// Every `stride`-th allocation, of whichever rank comes to it; every one in the whole attack.
std::int64_t attack_steps_of_ranks(const RankSteps& steps, Memory memory, std::int64_t stride, double tolerance = 0) {
  const std::vector<Ending> in_peace = steps.take([] {});
  for (const Ending& ending : in_peace) BOOST_REQUIRE(!ending.threw);
  std::int64_t failures = 0;
  const auto step = static_cast<std::uint64_t>(whole_attack() ? 1 : stride);
  for (std::uint64_t number = 1;; number += step) {
    std::optional<FailingAllocation> failing;
    const auto begun = std::chrono::steady_clock::now();
    const std::vector<Ending> found = steps.take([&] { failing.emplace(memory, number); });
    const bool hung = std::chrono::steady_clock::now() - begun >= kLimit;
    BOOST_REQUIRE(failing.has_value());
    if (!failing->end()) break;
    ++failures;
    std::string what = hung ? "waited for the others until the limit" : wrong(found, in_peace, tolerance);
    bool threw = false;
    for (const Ending& ending : found) threw = threw || ending.threw;
    count_attack(threw, !what.empty());
    if (!what.empty()) {
      BOOST_ERROR(
          fmt::format("{}: where allocation {} of {} failed, it {}", steps.name(), number, to_string(memory), what));
    }
  }
  BOOST_TEST(failures > 0, steps.name() << ": nothing was allocated");
  return failures;
}

}  // namespace

/// One allocation of one rank fails: all throw, none waits for ever, and nothing has changed on any.
BOOST_AUTO_TEST_SUITE(attack_ranks)

BOOST_AUTO_TEST_CASE(steps_of_several_ranks) {
  for (const Kind kind : {Kind::kWhole, Kind::kInfoNce, Kind::kClip, Kind::kSiglip}) {
    for (const bool direct : {false, true}) {
      const RankSteps steps{kind, {.cut = {2}}, direct};
      BOOST_TEST(attack_steps_of_ranks(steps, Memory::kTensors, 7) > 10);
      BOOST_TEST(attack_steps_of_ranks(steps, Memory::kObjects, 97) > 10);
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
