#pragma once

#include <map>
#include <string>

#include "command_train.h"

namespace tapecache::program {

/// What the bits of a run, or what it leaves, depend on among the options, by their names: a checkpoint keeps them, so
/// that a run that goes on with others is refused. What files hold is compared by fingerprints, since they may move.
std::map<std::string, std::string> run_settings(const TrainOptions& options, const PairsFile& training,
                                                const Prefixes& prefixes);

/// Throws ValueError naming the first setting that differs.
void require_same_settings(const std::map<std::string, std::string>& saved,
                           const std::map<std::string, std::string>& now);

}  // namespace tapecache::program
