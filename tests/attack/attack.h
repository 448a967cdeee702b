#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "failing_allocation.h"
#include "tapecache/autograd/undo_log.h"
#include "tapecache/autograd/variable.h"
#include "tapecache/core/random.h"
#include "tapecache/train/optimizer.h"

namespace tapecache::testing {

/// Everything that a piece of work may change.
struct Changeable {
  std::vector<Parameter> parameters;
  std::vector<Buffer> buffers;
  std::vector<train::Optimizer*> optimizers = {};
  std::filesystem::path folder = {};  ///< with the files in it; empty for none
};

/// Work that either happens or does not: what it may change is as before when it throws, and as by a run in peace when
/// it does not.
struct Work {
  std::string name;
  Changeable changes;
  /// Brings everything to where the work begins.
  std::function<void()> prepare;
  /// Gives a number to compare, such as a loss.
  std::function<double()> run;
  /// How far numbers and tensors may be from the run in peace, relative to the largest: chunks made smaller add in
  /// another order.
  double tolerance = 0;
  /// Adds to that number what is looked at when the work is done and no allocation fails any more.
  std::function<double()> look = {};
};

/// Does the work again and again, each time with another allocation that fails, every `stride`-th of them; in the whole
/// attack (TAPECACHE_ATTACK=whole) every one. Reports to Boost.Test what is wrong or half done. Returns how many
/// failed.
std::int64_t attack(const Work& work, Memory memory, std::int64_t stride = 1);

/// The sum of all elements: a number to compare.
double sum_of(const Tensor& x);

bool whole_attack();
/// Adds a failure to what is said in the end, for attacks on what `Work` is not made for.
void count_attack(bool threw, bool wrong);

}  // namespace tapecache::testing
