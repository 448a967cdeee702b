#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tapecache/core/error.h"
#include "tapecache/data/tokenizers/tokenizer.h"
#include "tapecache/models/lora.h"
#include "tapecache/models/pretrained.h"

namespace tapecache::program {

struct TextModelOptions {
  std::optional<std::int64_t> max_tokens = {};  ///< of a text, special ones included; none: as many as the model takes
  std::optional<double> dropout = {};           ///< in the place of what the folder says
  std::uint64_t seed = 0;                       ///< of parameters that are made beside the folder's
  std::filesystem::path base = {};              ///< in the place of what an adapter's folder says
  bool checkpoint = false;                      ///< as PretrainedOptions has it
  bool merge = true;                            ///< an adapter, so that the model costs what its base does
  bool compares = true;                         ///< vectors are compared, by an inner product
};

struct EmbedOptions {
  std::string prefix = {};           ///< before every text
  std::int64_t batch_tokens = 8192;  ///< of a forward, padding included; a longer text is one by itself
  DType autocast = DType::kFloat32;  ///< as StepOptions has it
  /// Called as it goes on, with how many texts are done.
  std::function<void(std::int64_t)> observer = {};
};

/// The path, where there is a folder. Throws FileError.
const std::filesystem::path& model_folder(const std::filesystem::path& path);
/// The same or, of an adapter's folder, its base model's: `base`, or else what adapter_config.json says, as it stands
/// or within the adapter's folder. Throws FileError.
std::filesystem::path base_folder(const std::filesystem::path& path, const std::filesystem::path& base);

/// Of an adapter's folder those by which its base is loaded with what stands beside the adapter: modules, prompts,
/// tokenizer and preprocessor.
models::PretrainedOptions pretrained_options(const std::filesystem::path& folder);

/// Dropout is off as long as this lives, and then as it was.
class WithoutDropout {
 public:
  explicit WithoutDropout(const models::Pretrained& model) : model_(model), before_(model.training()) {
    model.set_training(false);
  }
  ~WithoutDropout() { model_.set_training(before_); }
  WithoutDropout(const WithoutDropout&) = delete;
  WithoutDropout& operator=(const WithoutDropout&) = delete;

 private:
  const models::Pretrained& model_;
  bool before_;
};

/// Of a text that a tokenizer without special tokens makes nothing of.
class TextWithoutTokens : public ValueError {
 public:
  explicit TextWithoutTokens(const std::string& text);
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

/// A folder's model with its tokenizer. Of an adapter's folder the model is its base, and the tokenizer is the base's
/// where the folder has none.
class TextModel {
 public:
  /// Throws FileError for what cannot be loaded, a model that encodes no texts, one of another similarity than an inner
  /// product where vectors are compared, and a tokenizer with more ids than the model; ValueError for more tokens than
  /// that takes.
  explicit TextModel(const std::filesystem::path& folder, const TextModelOptions& options = {});

  const std::filesystem::path& folder() const { return folder_; }
  const models::Pretrained& model() const { return model_; }
  /// That of the model itself, where that is another one.
  const std::filesystem::path& base() const { return base_; }
  /// Where the folder is an adapter's.
  const std::optional<models::Lora>& adapter() const { return adapter_; }
  const data::Tokenizer& tokenizer() const { return tokenizer_; }
  std::int64_t max_tokens() const { return max_tokens_; }
  /// What texts of a kind begin with: the model's prompt of the first of these names that it has, else its default one.
  std::string prompt(std::initializer_list<std::string_view> names) const;

  /// The tokens of each text; those that are too long are cut. Throws TextWithoutTokens.
  std::vector<std::vector<std::int32_t>> ids(std::span<const std::string> texts, std::string_view prefix) const;
  /// Of these, a batch padded to the longest, or to `min_tokens` where that is more.
  models::TokenBatch padded(std::span<const std::vector<std::int32_t>> ids, std::int64_t min_tokens = 1) const;
  /// [batch, width], so that inner products are the model's similarity: of length 1 where that is the cosine.
  Variable representations(const models::TokenBatch& tokens) const;
  /// [texts, width], f32 on the host, as the model gives them: in the order of the texts, while those of like length
  /// are encoded together. Dropout is off meanwhile.
  Tensor embed(std::span<const std::string> texts, const EmbedOptions& options = {}) const;
  /// The same, for inner products to be the model's similarity.
  Tensor comparable(const Tensor& embeddings) const;

 private:
  std::filesystem::path folder_, base_;
  models::Pretrained model_;
  data::Tokenizer tokenizer_;
  std::optional<models::Lora> adapter_;
  std::int64_t max_tokens_;
};

}  // namespace tapecache::program
