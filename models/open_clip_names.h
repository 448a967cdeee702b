#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tapecache/models/pretrained_parts.h"

#pragma GCC visibility push(hidden)

/// OpenCLIP's names of tensors, and transformers', which are the model's.
namespace tapecache::models::detail {

/// Two names of a tensor or, where they end in a dot, what the names of several begin with.
struct NamePair {
  enum class Form { kSame, kTransposed, kBatchOfOne };

  std::string_view theirs, ours;
  Form form = Form::kSame;  ///< theirs
};

/// A tower's blocks, whose numbers follow these names.
struct BlockNames {
  std::string_view theirs, ours;
  std::span<const NamePair> parts;
  std::string_view fused;  ///< of one whose rows are those of query, key and value
};

struct NameTable {
  std::span<const NamePair> names;
  std::span<const BlockNames> blocks;
  /// Two whose rows are a third and the rest of one of the model's; empty where there are none.
  std::array<std::string_view, 2> parts_of_joined = {};
  std::string_view joined = {};
};

/// Of its own towers, and of a text tower beside timm's vision transformer.
extern const NameTable kOpenClipNames, kTimmNames;

/// What a tensor of the files is of the model; itself where the table has not its name.
std::vector<RenamedTensor> from_open_clip(const NameTable& table, const std::string& theirs,
                                          const SafetensorsReader::Entry& entry);
/// The reverse, of all tensors.
NamedTensors to_open_clip(const NameTable& table, const NamedTensors& ours);

}  // namespace tapecache::models::detail

#pragma GCC visibility pop
