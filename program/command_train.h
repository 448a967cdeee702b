#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "model_options.h"
#include "pairs_file.h"
#include "training_loss.h"
#include "tuning.h"

namespace tapecache::program {

struct TrainOptions {
  ModelOptions model = {};
  std::filesystem::path pairs = {}, out = {};
  PairsOptions columns = {};
  PrefixOptions prefixes = {};

  std::int64_t batch = 256;
  std::optional<std::int64_t> chunk = {}, chunk_tokens = {};
  std::optional<std::uint64_t> memory = {};  ///< bytes

  LossOptions loss = {};
  std::optional<double> temperature = {};  ///< in the place of the scale, its inverse
  TuningOptions tuning = {};
  std::vector<std::string> freeze = {};  ///< patterns, as a shell has them, of parameters' names

  double epochs = 1;
  std::optional<std::int64_t> steps = {};  ///< in the place of epochs
  double rate = 2e-5, weight_decay = 0.01, clip_norm = 1;
  double warmup = 0.1;  ///< steps, or below 1 a share of all
  std::uint64_t seed = 0;
  std::optional<double> dropout = {};
  std::optional<int> loaders = {};  ///< threads that read images beside the step
  bool checkpointing = false;

  std::filesystem::path eval_pairs = {};
  double eval_share = 0.05;
  std::int64_t eval_limit = 1000;
  std::optional<std::int64_t> eval_every = {};  ///< steps; none: once an epoch
  std::int64_t save_every = 100, check_every = 0;
  bool resume = false;

  std::optional<int> processes = {};  ///< that share each batch
  std::int64_t wait = 600;            ///< seconds, that a process waits for another before it gives up
  bool reproducible = false;          ///< to the same bits for any number of processes
};

/// Trains, with the processes that a launcher started together with this one. Gives the exit code. Throws what the
/// library throws.
int run_train(const TrainOptions& options);

}  // namespace tapecache::program
