#pragma once

#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tapecache/autograd/parameter_settings.h"
#include "tapecache/autograd/variable.h"
#include "tapecache/models/pretrained.h"
#include "tapecache/models/weight_files.h"

#pragma GCC visibility push(hidden)

namespace tapecache::models::detail {

/// Takes a model's tensors from files one after another, and keeps what does not fit for one message.
class WeightReader {
 public:
  WeightReader(const WeightFiles& files, const LoadOptions& options) : files_(files), options_(options) {}

  /// The value of a tensor of the model, on the host; undefined, and noted, where there is none that fits.
  Tensor value(const std::string& name, const Shape& shape, DType dtype);
  /// What does not fit, a sentence each: of the values that were asked for, of what the files hold beyond the `state`,
  /// and of the settings that parameters were saved with.
  std::vector<std::string> problems(const std::vector<Buffer>& state, std::span<const Parameter> parameters,
                                    const NameInFile& name_without_prefix);
  /// Throws FileError where there are any.
  void require_none(const std::vector<std::string>& problems) const;

 private:
  std::string name_in_file(const std::string& name, const Shape& shape) const;
  std::optional<std::string> common_prefix() const;
  void note_surplus(const std::vector<Buffer>& state);

  const WeightFiles& files_;
  LoadOptions options_;
  std::set<std::string> used_;
  std::vector<std::string> missing_;  // without the prefix
  std::vector<std::string> wrong_, surplus_;
};

}  // namespace tapecache::models::detail

#pragma GCC visibility pop
