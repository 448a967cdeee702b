#include "tapecache/data/tokenizers/draft.h"

#include <algorithm>

#include <fmt/format.h>

#include "tapecache/core/error.h"
#include "tapecache/data/tokenizers/unicode.h"
#include "tapecache/data/tokenizers/vocabulary.h"

namespace tapecache::data::tokenizers {

namespace fs = std::filesystem;

JsonFile optional_file(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored) ? JsonFile(path) : JsonFile(path, Json::object());
}

std::vector<std::string> lines_of(const fs::path& path) {
  const std::string bytes = file_bytes(path);
  if (!is_well_formed(bytes)) throw FileError(fmt::format("{}: is not UTF-8", path.string()));
  std::vector<std::string> lines;
  for (std::size_t begin = 0; begin < bytes.size();) {
    const std::size_t end = std::min(bytes.find('\n', begin), bytes.size());
    lines.push_back(bytes.substr(begin, end - begin));
    if (!lines.back().empty() && lines.back().back() == '\r') lines.back().pop_back();
    begin = end + 1;
  }
  return lines;
}

std::optional<std::string> class_of(const Field& config) {
  const auto name = config.find("tokenizer_class");
  if (!name) return std::nullopt;
  std::string kind = name->string();
  for (const std::string_view ending : {"Fast", "Tokenizer"}) {
    if (kind.ends_with(ending)) kind.erase(kind.size() - ending.size());
  }
  return kind;
}

std::string kind_of(const fs::path& model, const Field& config, const std::map<std::string, std::string>& kinds) {
  if (const auto name = config.find("tokenizer_class")) {
    const std::string kind = class_of(config).value_or("");
    // This class is any tokenizer's.
    if (kind != "PreTrained") {
      const auto found = kinds.find(kind);
      if (found == kinds.end()) throw name->refused(fmt::format("'{}' without tokenizer.json is not supported", kind));
      return found->second;
    }
  }
  const JsonFile configuration = optional_file(model / "config.json");
  const auto type = configuration.root().find("model_type");
  if (!type) return "";
  for (const auto& [name, kind] : kinds) {
    std::string lower;
    for (const char c : name) append_lowercase(lower, static_cast<unsigned char>(c));
    if (type->string().starts_with(lower)) return kind;
  }
  return "";
}

bool is_siglip(const fs::path& model, const Field& config) {
  const auto name = config.find("tokenizer_class");
  if (name && name->string().starts_with("Siglip")) return true;
  const JsonFile configuration = optional_file(model / "config.json");
  const auto type = configuration.root().find("model_type");
  return type && type->string().starts_with("siglip");
}

std::optional<std::string> token_of(const Field& config, std::string_view key) {
  const auto field = config.find(key);
  if (!field) return std::nullopt;
  return field->is_object() ? field->at("content").string() : field->string();
}

std::string token_or(const Field& config, std::string_view key, std::string_view otherwise) {
  return token_of(config, key).value_or(std::string(otherwise));
}

Json text(std::string_view value) { return Json::of(value); }

Json of_type(const char* type, std::vector<Json::Member> others) {
  others.insert(others.begin(), {"type", text(type)});
  return Json::object(std::move(others));
}

Json sequence_of(const char* what, std::vector<Json> parts) {
  return of_type("Sequence", {{what, Json::array(std::move(parts))}});
}

Json regex(const char* expression) { return Json::object({{"Regex", text(expression)}}); }

Json bert_normalizer(const Field& config) {
  const auto strip = config.find("strip_accents");
  return of_type("BertNormalizer",
                 {{"clean_text", Json::of(true)},
                  {"handle_chinese_chars", Json::of(config.boolean_or("tokenize_chinese_chars", true))},
                  {"strip_accents", strip ? Json::of(strip->boolean()) : Json{}},
                  {"lowercase", Json::of(config.boolean_or("do_lower_case", true))}});
}

Json byte_level(bool prefix, bool words) {
  return of_type(
      "ByteLevel",
      {{"add_prefix_space", Json::of(prefix)}, {"trim_offsets", Json::of(true)}, {"use_regex", Json::of(words)}});
}

Draft::Draft(const fs::path& folder, const Field& config) : folder_(folder), config_(config) {
  const JsonFile others = optional_file(folder_ / "added_tokens.json");
  others.root().for_each([&](const std::string& token, const Field& id) { others_[token] = id.id(); });
}

Json Draft::named(const std::string& token) const {
  const std::int32_t id = id_of(token);
  if (id == kNone) throw FileError(fmt::format("{}: its vocabulary has no '{}'", folder_.string(), token));
  return Json::array({text(token), Json::of(std::int64_t{id})});
}

void Draft::add_special(const std::string& token, bool takes_left) {
  if (const std::int32_t id = id_of(token); id != kNone) add(token, id, takes_left, false, false, false, true);
}

void Draft::add_listed() {
  const auto listed = config_.find("added_tokens_decoder");
  if (!listed) return;
  listed->for_each([&](const std::string& number, const Field& token) {
    const bool digits = !number.empty() && number.size() < 9 && number.find_first_not_of("0123456789") == number.npos;
    if (!digits) throw token.refused("its key is not an id");
    add(token.at("content").string(), std::stoi(number), token.boolean_or("lstrip", false),
        token.boolean_or("rstrip", false), token.boolean_or("single_word", false), token.boolean_or("normalized", true),
        token.boolean_or("special", false));
  });
}

void Draft::add_others() {
  for (const auto& [token, id] : others_) add(token, id, false, false, false, false, false);
}

std::unique_ptr<JsonFile> Draft::file(const char* name) && {
  if (!model_.find("vocab")) {
    Json vocabulary = Json::object();
    for (const auto& [token, id] : vocabulary_) vocabulary.members.emplace_back(token, Json::of(std::int64_t{id}));
    model_.set("vocab", std::move(vocabulary));
  }
  json_.set("version", text("1.0"));
  json_.set("model", std::move(model_));
  json_.set("added_tokens", std::move(added_));
  return std::make_unique<JsonFile>(folder_ / name, std::move(json_));
}

std::int32_t Draft::id_of(const std::string& token) const {
  if (const auto found = vocabulary_.find(token); found != vocabulary_.end()) return found->second;
  const auto other = others_.find(token);
  return other == others_.end() ? kNone : other->second;
}

void Draft::add(const std::string& token, std::int32_t id, bool left, bool right, bool single, bool normalized,
                bool special) {
  if (!names_.insert(token).second) return;
  added_.items.push_back(Json::object({{"id", Json::of(std::int64_t{id})},
                                       {"content", text(token)},
                                       {"single_word", Json::of(single)},
                                       {"lstrip", Json::of(left)},
                                       {"rstrip", Json::of(right)},
                                       {"normalized", Json::of(normalized)},
                                       {"special", Json::of(special)}}));
}

Json roberta_processing(const Draft& draft, const std::string& cls, const std::string& sep) {
  return of_type("RobertaProcessing", {{"sep", draft.named(sep)},
                                       {"cls", draft.named(cls)},
                                       {"trim_offsets", Json::of(true)},
                                       {"add_prefix_space", Json::of(false)}});
}

}  // namespace tapecache::data::tokenizers
