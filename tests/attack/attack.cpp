#include "attack.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <string_view>

#include <boost/test/unit_test.hpp>
#include <fmt/format.h>

#include "../compare.h"
#include "../folder.h"
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
    if (a.defined() != b.defined()) return fmt::format("{}, which is {}there", expected.names[i], a.defined() ? "" : "not ");
    if (!a.defined() || same_bits(a, b)) continue;
    const double apart = max_difference(a, b);
    if (!(apart <= tolerance)) return fmt::format("{}, by {}", expected.names[i], apart);
  }
  return {};
}

struct Attack {
  const Work& work;
  Memory memory;
  Snapshot begin;
  double value;  // of a run in peace
  Snapshot end;

  Attack(const Work& w, Memory m) : work(w), memory(m), begin(prepared()), value(work.run()), end(work.changes) {}

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
  bool fail(std::uint64_t number, AttackCount& count) const {
    work.prepare();
    const std::size_t in_use = allocator().stats().current;
    std::optional<double> found;
    std::string thrown, wrong;
    FailingAllocation failing(memory, number);
    try {
      found = work.run();
      failing.end();
    } catch (const OutOfMemory& e) {
      failing.end();
      thrown = "OutOfMemory";
    } catch (const std::bad_alloc&) {
      failing.end();
      thrown = "std::bad_alloc";
    } catch (const std::exception& e) {
      failing.end();
      wrong = fmt::format("threw another error: {}", e.what());
    }
    if (!failing.end()) return false;
    ++count.failures;
    ++(found ? count.recovered : count.thrown);
    if (found) {
      wrong = wrong_result(*found);
    } else if (wrong.empty()) {
      const std::string different = difference(Snapshot(work.changes), begin, 0);
      if (!different.empty()) wrong = fmt::format("threw {} and changed {}", thrown, different);
      else if (allocator().stats().current > in_use) wrong = fmt::format("threw {} and kept {} bytes", thrown,
                                                                         allocator().stats().current - in_use);
      // What is left behind must not spoil the next try.
      if (wrong.empty()) {
        wrong = wrong_result(work.run());
        if (!wrong.empty()) wrong = fmt::format("threw {} and, done again, {}", thrown, wrong);
      }
    }
    if (!wrong.empty()) {
      BOOST_ERROR(fmt::format("{}: where allocation {} of {} failed, it {}", work.name, number,
                              memory == Memory::kTensors ? "tensors" : "objects", wrong));
    }
    return true;
  }
};

AttackCount total;

/// Says what was tried in the end.
struct Total {
  ~Total() {
    std::printf("%lld allocations failed: %lld times the work threw, %lld times it recovered\n",
                static_cast<long long>(total.failures), static_cast<long long>(total.thrown),
                static_cast<long long>(total.recovered));
  }
};
BOOST_TEST_GLOBAL_FIXTURE(Total);

}  // namespace

bool whole_attack() {
  const char* set = std::getenv("TAPECACHE_ATTACK");
  return set && std::string_view(set) == "whole";
}

AttackCount attack(const Work& work, Memory memory, std::int64_t stride) {
  const Attack one(work, memory);
  AttackCount count;
  const auto step = static_cast<std::uint64_t>(whole_attack() ? 1 : stride);
  std::uint64_t number = 1;
  while (one.fail(number, count)) number += step;
  BOOST_TEST(count.failures > 0, work.name << ": nothing was allocated");
  BOOST_TEST_MESSAGE(fmt::format("{}: {} failed allocations of {}, {} thrown, {} recovered", work.name, count.failures,
                                 memory == Memory::kTensors ? "tensors" : "objects", count.thrown, count.recovered));
  total.failures += count.failures, total.thrown += count.thrown, total.recovered += count.recovered;
  return count;
}

}  // namespace tapecache::testing
