#include "attack.h"

#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <string_view>

#include <fmt/format.h>
#include <boost/test/unit_test.hpp>

#include "compare.h"
#include "folder.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/error.h"

namespace tapecache::testing {

namespace {

struct Snapshot {
  std::vector<std::string> names;
  std::vector<Tensor> tensors;  // copies; undefined where there was none
  std::map<std::string, std::string> files;
  RandomState random;

  explicit Snapshot(const Changeable& of) : random(random_state()) {
    const auto add = [&](std::string name, const Tensor& tensor) {
      names.push_back(std::move(name));
      tensors.push_back(tensor.defined() ? tensor.clone() : Tensor());
    };
    for (const Parameter& p : of.parameters) {
      add(p.name(), p.value());
      add(p.name() + "'s gradient", p.gradient());
    }
    for (const Buffer& b : of.buffers) add(b.name, b.value);
    for (const train::Optimizer* optimizer : of.optimizers) {
      for (const auto& [name, tensor] : optimizer->state()) add(name, tensor);
    }
    if (of.folder.empty()) return;
    for (const auto& entry : std::filesystem::directory_iterator(of.folder)) {
      files[entry.path().filename()] = contents(entry.path());
    }
  }
};

/// What is different, empty for nothing.
std::string difference(const Snapshot& found, const Snapshot& expected, double tolerance) {
  if (!(found.random == expected.random)) return "the random state";
  if (found.files != expected.files) return "the files";
  if (found.names != expected.names) return "what there is of state";
  for (std::size_t i = 0; i < found.tensors.size(); ++i) {
    const Tensor &a = found.tensors[i], &b = expected.tensors[i];
    if (a.defined() != b.defined())
      return fmt::format("{}, which is {}there", expected.names[i], a.defined() ? "" : "not ");
    if (!a.defined() || same_bits(a, b)) continue;
    const double apart = max_difference(a, b);
    if (!(apart <= tolerance)) return fmt::format("{}, by {}", expected.names[i], apart);
  }
  return {};
}

/// What came of all failures that were injected.
struct Count {
  std::int64_t failures = 0;   // injected
  std::int64_t thrown = 0;     // that the work ended with
  std::int64_t recovered = 0;  // that it got over
  std::int64_t wrong = 0;      // that ended in a wrong or half result
};

struct Attack {
  const Work& work;
  Memory memory;
  Snapshot begin;
  std::size_t in_use;  // bytes
  // Of a run in peace.
  double value;
  std::int64_t kept;  // bytes
  Snapshot end;

  Attack(const Work& w, Memory m)
      : work(w),
        memory(m),
        begin(prepared()),
        in_use(bytes_in_use()),
        value(work.run()),
        kept(bytes_since(in_use)),
        end(work.changes) {
    value = looked_at(value);
  }

  double looked_at(double found) const { return work.look ? found + work.look() : found; }

  static std::size_t bytes_in_use() { return allocator().stats().current; }
  static std::int64_t bytes_since(std::size_t before) {
    return static_cast<std::int64_t>(bytes_in_use()) - static_cast<std::int64_t>(before);
  }

  Snapshot prepared() const {
    work.prepare();
    return Snapshot(work.changes);
  }

  /// Returns what is wrong, empty for nothing.
  std::string wrong_result(double found) const {
    if (!(std::abs(found - value) <= work.tolerance * std::max(1.0, std::abs(value)))) {
      return fmt::format("gave {}, expected {}", found, value);
    }
    const std::string different = difference(Snapshot(work.changes), end, work.tolerance);
    return different.empty() ? different : "left another value of " + different;
  }

  /// False where there are fewer allocations than this.
  bool fail(std::uint64_t number, Count& count) const {
    work.prepare();
    const std::size_t before = bytes_in_use();
    std::optional<double> found;
    std::string thrown, wrong;
    FailingAllocation failing(memory, number);
    try {
      found = work.run();
      failing.end();
    } catch (const OutOfMemory&) {
      failing.end();
      thrown = "OutOfMemory";
    } catch (const std::bad_alloc&) {
      failing.end();
      thrown = "std::bad_alloc";
    } catch (const std::exception& e) {
      failing.end();
      wrong = fmt::format("threw another error: {}", e.what());
    }
    // Work that did not throw had room within its limit.
    if (!failing.end() && (found || memory != Memory::kTensorsWithinLimit)) {
      if (!found) BOOST_ERROR(fmt::format("{}: threw {}{} where no allocation failed", work.name, thrown, wrong));
      return false;
    }
    ++count.failures;
    ++(found ? count.recovered : count.thrown);
    const std::int64_t now_kept = bytes_since(before);
    if (found) {
      wrong = wrong_result(looked_at(*found));
      if (wrong.empty() && now_kept > kept) wrong = fmt::format("kept {} bytes, expected {}", now_kept, kept);
    } else if (wrong.empty()) {
      const std::string different = difference(Snapshot(work.changes), begin, 0);
      if (!different.empty()) wrong = fmt::format("threw {} and changed {}", thrown, different);
      else if (now_kept > 0) wrong = fmt::format("threw {} and kept {} bytes", thrown, now_kept);
      // What is left behind must not spoil the next try.
      if (wrong.empty()) {
        wrong = wrong_result(looked_at(work.run()));
        if (!wrong.empty()) wrong = fmt::format("threw {} and, done again, {}", thrown, wrong);
      }
    }
    if (!wrong.empty()) {
      ++count.wrong;
      BOOST_ERROR(
          fmt::format("{}: where allocation {} of {} failed, it {}", work.name, number, to_string(memory), wrong));
    }
    return true;
  }
};

Count total;

/// Says what was tried in the end.
struct Total {
  ~Total() {
    fmt::print("{} allocations failed: {} times the work threw, {} times it recovered; {} results were wrong or half\n",
               total.failures, total.thrown, total.recovered, total.wrong);
  }
};
BOOST_TEST_GLOBAL_FIXTURE(Total);

}  // namespace

double sum_of(const Tensor& x) {
  double sum = 0;
  for (const double value : doubles(x)) sum += value;
  return sum;
}

bool whole_attack() {
  const char* set = std::getenv("TAPECACHE_ATTACK");
  return set && std::string_view(set) == "whole";
}

void count_attack(bool threw, bool wrong) {
  ++total.failures;
  ++(threw ? total.thrown : total.recovered);
  if (wrong) ++total.wrong;
}

std::int64_t attack(const Work& work, Memory memory, std::int64_t stride) {
  const Attack one(work, memory);
  Count count;
  const auto step = static_cast<std::uint64_t>(whole_attack() ? 1 : stride);
  std::uint64_t number = 1;
  while (one.fail(number, count)) number += step;
  BOOST_TEST(count.failures > 0, work.name << ": nothing was allocated");
  BOOST_TEST_MESSAGE(fmt::format("{}: {} failed allocations of {}, {} thrown, {} recovered", work.name, count.failures,
                                 to_string(memory), count.thrown, count.recovered));
  total.failures += count.failures, total.thrown += count.thrown;
  total.recovered += count.recovered, total.wrong += count.wrong;
  return count.failures;
}

}  // namespace tapecache::testing
