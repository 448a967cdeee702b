#pragma once

#include <functional>
#include <string>
#include <vector>

#include "ceilings.h"
#include "op_table.h"

namespace ops_bench {

/// Least work of one run: arithmetic, and bytes where each tensor is read or written once.
struct Work {
  double flops, bytes;

  double copy_seconds(const Ceilings& ceilings) const { return bytes / ceilings.bytes_per_second(bytes); }
  /// The larger of its arithmetic and its traffic at the machine's ceilings.
  double least_seconds(const Ceilings& ceilings) const;
};

/// An op of the table over its large inputs in f32: forward alone, or with backward, which takes the forward's
/// arithmetic twice, reads the cotangent and the inputs, and writes their gradients.
struct OpRun {
  std::string name;
  Work work;
  std::function<void()> run;
};

std::string run_name(const tapecache::testing::OpRow& row, bool backward);
/// Makes the inputs, and runs the op once.
OpRun make_run(const tapecache::testing::OpRow& row, bool backward);
/// The rows that have large inputs.
std::vector<tapecache::testing::OpRow> measured_rows();

}  // namespace ops_bench
