#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "evaluation.h"
#include "image_encoder.h"
#include "pairs_file.h"
#include "process_group.h"
#include "tapecache/gradcache/tower.h"
#include "tapecache/ops/contrastive_options.h"
#include "text_model.h"
#include "work_ahead.h"

namespace tapecache::program {

/// A batch as a step takes it: this process's pairs of it, and what the loss asks of all.
struct PairBatch {
  models::TokenBatch anchors, targets;  ///< targets: each pair's positive, then its hard negatives
  Tensor pixels = {};                   ///< of the anchors, where they are images
  ops::EqualTargets equal = {};         ///< of the whole batch, where it has equal texts
  std::vector<std::string> anchor_texts = {}, target_texts = {};  ///< of the whole batch
  Shares pairs = {};

  std::int64_t size() const { return static_cast<std::int64_t>(anchor_texts.size()); }
  Shares targets_of_all() const;
};

/// How images are read beside what the program computes.
struct LoadingOptions {
  std::uint64_t seed = 0;  ///< of crops and flips
  int threads = 1;
};

class PairBatches {
 public:
  /// Holds on to the arguments; `images` encodes the anchors of pairs that have images. Throws as `require_texts`.
  PairBatches(const PairsFile& pairs, const TextModel& model, const Prefixes& prefixes,
              const ImageEncoder* images = nullptr, const LoadingOptions& loading = {});

  /// What a batch is made of before its texts are padded, which all processes do alike.
  struct Parts {
    PairBatch batch;
    std::vector<std::vector<std::int32_t>> anchors, targets;  // tokens of each text

    /// Of the longest anchor and the longest target.
    std::array<std::int64_t, 2> longest() const;
  };

  /// Reads the rows of a batch, which the processes share. With an epoch, images as training sees them in it.
  Parts read(const std::vector<std::int64_t>& rows, const Shares& shares, std::optional<std::uint32_t> epoch = {});
  /// The batch, with anchors and targets of at least so many tokens.
  PairBatch padded(Parts parts, const std::array<std::int64_t, 2>& tokens) const;
  /// Of the tokens that the texts of these pairs become.
  std::uint64_t fingerprint(const std::vector<std::int64_t>& rows) const;
  /// Of one process.
  PairBatch batch(const std::vector<std::int64_t>& rows);
  /// Begins to read the images of what `read` is called with next; what goes wrong is thrown there.
  void load_ahead(const std::vector<std::int64_t>& rows, const Shares& shares, std::optional<std::uint32_t> epoch = {});

 private:
  std::vector<std::vector<std::int32_t>> ids_of(std::span<const std::string> texts, const std::string& prefix) const;

  const PairsFile& pairs_;
  const TextModel& model_;
  Prefixes prefixes_;
  const ImageEncoder* images_;
  std::uint64_t seed_;
  std::vector<std::int64_t> loading_;  // rows whose images are being read
  Tensor pixels_;                      // their places
  std::unique_ptr<WorkAhead> work_;    // ends before what it writes to
};

/// The first pairs of each process's share, about so many together, with their hard negatives.
PairBatch first_pairs(const PairBatch& batch, std::int64_t count);

/// Anchors and targets, both encoded by the model, or images by its other half.
std::vector<gradcache::Tower> towers_of(const PairBatch& batch, const TextModel& model,
                                        const ImageEncoder* images = nullptr);

}  // namespace tapecache::program
