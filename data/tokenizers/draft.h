#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tapecache/data/tokenizers/fields.h"

#pragma GCC visibility push(hidden)

/// What folders without a tokenizer.json have in common.
namespace tapecache::data::tokenizers {

/// A JSON file that may be missing, which is then an empty object.
JsonFile optional_file(const std::filesystem::path& path);

/// Of a file of UTF-8, without their ends.
std::vector<std::string> lines_of(const std::filesystem::path& path);

/// The class that a configuration names, without its endings "Tokenizer" and "Fast".
std::optional<std::string> class_of(const Field& config);

/// What names the kind of a folder's tokenizer: its class, or the model's type. `kinds` has the kind by the beginning
/// of both; empty where neither is said.
std::string kind_of(const std::filesystem::path& model, const Field& config,
                    const std::map<std::string, std::string>& kinds);

/// Whether it is a SigLIP's, whose texts are lower-cased by the class of its tokenizer.
bool is_siglip(const std::filesystem::path& model, const Field& config);

/// A token under its name in tokenizer_config.json: "[PAD]", or {"content": "[PAD]", …}.
std::optional<std::string> token_of(const Field& config, std::string_view key);
std::string token_or(const Field& config, std::string_view key, std::string_view otherwise);

/// Short for what a tokenizer.json is made of.
Json text(std::string_view value);
Json of_type(const char* type, std::vector<Json::Member> others = {});
Json sequence_of(const char* what, std::vector<Json> parts);
Json regex(const char* expression);

/// BERT's normaliser as tokenizer_config.json has it, and the pre-tokenizer of bytes.
Json bert_normalizer(const Field& config);
Json byte_level(bool prefix, bool words);

/// A tokenizer.json, as it is put together.
class Draft {
 public:
  Draft(const std::filesystem::path& folder, const Field& config);

  /// A field of the whole.
  void set(const char* name, Json value) { json_.set(name, std::move(value)); }
  void set_model(Json model) { model_ = std::move(model); }
  /// A field of the model.
  void set_of_model(const char* name, Json value) { model_.set(name, std::move(value)); }
  /// Of two ids of one token the last counts.
  void put(const std::string& token, std::int32_t id) { vocabulary_[token] = id; }
  bool has(const std::string& token) const { return vocabulary_.contains(token); }
  /// kNone where there is no such token.
  std::int32_t id_of(const std::string& token) const;
  /// A token and its id, which must be there.
  Json named(const std::string& token) const;

  void add_special(const std::string& token, bool takes_left = false);
  /// Those that tokenizer_config.json lists.
  void add_listed();
  /// Those of added_tokens.json that are not there yet.
  void add_others();

  std::unique_ptr<JsonFile> file(const char* name) &&;

 private:
  void add(const std::string& token, std::int32_t id, bool left, bool right, bool single, bool normalized,
           bool special);

  std::filesystem::path folder_;
  Field config_;
  Json json_ = Json::object(), model_ = Json::object(), added_ = Json::array();
  std::unordered_map<std::string, std::int32_t> vocabulary_;
  std::set<std::string> names_;
  std::map<std::string, std::int32_t> others_;
};

/// RoBERTa's special tokens: one before, one behind, and two between the texts of a pair.
Json roberta_processing(const Draft& draft, const std::string& cls, const std::string& sep);

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
