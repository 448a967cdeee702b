#pragma once

#include <string>

namespace ops_bench {

/// The guard against an op that silently becomes slow, for instance because a compiler no longer vectorises its kernel.
///
/// Each op of the table is measured with two threads, as the least of several trials, beside the machine's ceilings in
/// the same trials. Its share is the least time that the ceilings allow over the time it took. A file of floors,
/// {"op/forward": share, …}, has three quarters of the least share that the processors showed on which it was written;
/// an op that stays below half of its floor in all trials, and in more where it is measured in turn with the ceilings,
/// has failed. So neither the noise of a shared machine nor another processor makes it fail, and what takes four times
/// as long does, as a scalar loop in the place of a vector one. An op that the ceilings allow less than `kLeastJudged`
/// seconds is not judged: waking the threads is most of it.
///
/// Also prints, for each activation with its gradient, its share of what a copy of as many bytes would allow.
inline constexpr double kLeastJudged = 10e-6;

/// False where an op failed, or the file does not name the ops of the table; says what and why. Throws where the
/// kernels are not optimised, or the file cannot be read.
bool check(const std::string& floors);

/// Writes the floors that follow from the shares found here; of an op that is in the file already, the lower one. To
/// raise floors, delete them first.
void write_floors(const std::string& floors);

}  // namespace ops_bench
