#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>

#include "tapecache/autograd/variable.h"
#include "tapecache/train/optimizer.h"

namespace tapecache::train {

/// Where a training run stands, apart from its weights and its optimiser's state.
struct TrainingPosition {
  std::int64_t step = 0;                          ///< steps taken
  std::uint64_t seed = 0;                         ///< of the random stream; a step's draws depend on (seed, step) alone
  std::map<std::string, std::string> notes = {};  ///< whatever else the program needs to go on

  bool operator==(const TrainingPosition&) const = default;
};

/// Writes weights and buffers (`model.…`), optimiser state (`optimizer.…`) and position as one safetensors file,
/// atomically: a run that is killed finds the last whole checkpoint, and goes on from it to the same bits. Its metadata
/// has `format: pt`, for other readers of weights. Throws FileError, and ValueError for a step below 0 or two tensors
/// of one name.
void save_checkpoint(const std::filesystem::path& path, std::span<const Parameter> parameters,
                     const Optimizer& optimizer, const TrainingPosition& position,
                     std::span<const Buffer> buffers = {});

/// The same with several optimisers, whose state goes by their place (`optimizer.0.…`); with one, the file is as above.
/// A `std::vector<train::Optimizer*>` will do. Throws ValueError for a null pointer.
void save_checkpoint(const std::filesystem::path& path, std::span<const Parameter> parameters,
                     std::span<const Optimizer* const> optimizers, const TrainingPosition& position,
                     std::span<const Buffer> buffers = {});

/// Restores parameters, buffers and optimiser and gives the position. Everything is checked, and there is memory for
/// it, before anything is changed. Throws FileError naming the path and what does not fit, such as a parameter that was
/// saved under another setting (`Parameter::settings`), and OutOfMemory.
TrainingPosition load_checkpoint(const std::filesystem::path& path, std::span<const Parameter> parameters,
                                 Optimizer& optimizer, std::span<const Buffer> buffers = {});
/// The same with as many optimisers as were saved, in that order. Throws ValueError for a null pointer.
TrainingPosition load_checkpoint(const std::filesystem::path& path, std::span<const Parameter> parameters,
                                 std::span<Optimizer* const> optimizers, std::span<const Buffer> buffers = {});

}  // namespace tapecache::train
