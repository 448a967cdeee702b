#pragma once

#include <cstdint>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "command_train.h"
#include "process_group.h"
#include "tapecache/gradcache/step.h"

namespace tapecache::program {

/// Throws ValueError for options that so many processes cannot take, naming them.
void check_processes(const TrainOptions& options, int processes);
/// Throws ValueError for a batch of too few pairs.
void check_batch(const TrainOptions& options, std::int64_t batch, int processes);

/// How a run's steps are taken.
gradcache::StepOptions step_options(const TrainOptions& options, const ProcessGroup& group);
/// The plan that keeps to the budget of every process.
gradcache::MemoryPlan agreed(gradcache::MemoryPlan plan, const gradcache::StepOptions& step, const ProcessGroup& group);

/// A plan as a checkpoint keeps it. `plan_of` throws what nlohmann-json throws for what is none.
std::string text_of(const gradcache::MemoryPlan& plan);
gradcache::MemoryPlan plan_of(const nlohmann::ordered_json& json);

}  // namespace tapecache::program
