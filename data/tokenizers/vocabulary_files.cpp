#include "tapecache/data/tokenizers/vocabulary_files.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tapecache/data/tokenizers/unicode.h"
#include "tapecache/data/tokenizers/vocabulary.h"

namespace tapecache::data::tokenizers {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

/// A JSON file that may be missing, which is then an empty object.
JsonFile optional_file(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored) ? JsonFile(path) : JsonFile(path, "{}");
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

/// What names the kind of a tokenizer: its class, or the model's type.
std::string kind_of(const fs::path& folder, const Field& config, const std::map<std::string, std::string>& kinds) {
  if (const auto name = config.find("tokenizer_class")) {
    std::string kind = name->string();
    for (const std::string_view ending : {"Fast", "Tokenizer"}) {
      if (kind.ends_with(ending)) kind.erase(kind.size() - ending.size());
    }
    // This class is any tokenizer's.
    if (kind != "PreTrained") {
      const auto found = kinds.find(kind);
      if (found == kinds.end()) throw name->refused(fmt::format("'{}' without tokenizer.json is not supported", kind));
      return found->second;
    }
  }
  const JsonFile model = optional_file(folder / "config.json");
  const auto type = model.root().find("model_type");
  if (!type) return "";
  for (const auto& [name, kind] : kinds) {
    std::string lower;
    for (const char c : name) append_lowercase(lower, static_cast<unsigned char>(c));
    if (type->string().starts_with(lower)) return kind;
  }
  return "";
}

std::string token_or(const Field& config, std::string_view key, std::string_view otherwise) {
  const auto field = config.find(key);
  if (!field) return std::string(otherwise);
  return field->is_object() ? field->at("content").string() : field->string();
}

/// The tokenizer, as it is put together.
class Made {
 public:
  Made(const fs::path& folder, const Field& config) : folder_(folder), config_(config) {
    json_["version"] = "1.0";
    json_["added_tokens"] = Json::array();
    const JsonFile others = optional_file(folder_ / "added_tokens.json");
    others.root().for_each([&](const std::string& token, const Field& id) { others_[token] = id.id(); });
  }

  Json& operator[](const char* key) { return json_[key]; }
  Json& vocabulary() { return json_["model"]["vocab"]; }

  Json named(const std::string& token) const {
    const std::int32_t id = id_of(token);
    if (id == kNone) throw FileError(fmt::format("{}: its vocabulary has no '{}'", folder_.string(), token));
    return Json::array({token, id});
  }

  void add_special(const std::string& token, bool takes_left = false) {
    if (const std::int32_t id = id_of(token); id != kNone) add(token, id, takes_left, false, false, false, true);
  }
  /// Those that tokenizer_config.json lists.
  void add_listed() {
    const auto listed = config_.find("added_tokens_decoder");
    if (!listed) return;
    listed->for_each([&](const std::string& number, const Field& token) {
      const bool digits = !number.empty() && number.size() < 9 && number.find_first_not_of("0123456789") == number.npos;
      if (!digits) throw token.refused("its key is not an id");
      add(token.at("content").string(), std::stoi(number), token.boolean_or("lstrip", false),
          token.boolean_or("rstrip", false), token.boolean_or("single_word", false),
          token.boolean_or("normalized", true), token.boolean_or("special", false));
    });
  }
  /// Those of added_tokens.json that are not there yet.
  void add_others() {
    for (const auto& [token, id] : others_) add(token, id, false, false, false, false, false);
  }

  std::unique_ptr<JsonFile> file(const char* name) const {
    return std::make_unique<JsonFile>(folder_ / name, json_.dump());
  }

 private:
  std::int32_t id_of(const std::string& token) const {
    const Json& vocabulary = json_["model"]["vocab"];
    if (const auto found = vocabulary.find(token); found != vocabulary.end()) return found->get<std::int32_t>();
    const auto other = others_.find(token);
    return other == others_.end() ? kNone : other->second;
  }

  void add(const std::string& token, std::int32_t id, bool left, bool right, bool single, bool normalized,
           bool special) {
    if (!added_.insert(token).second) return;
    json_["added_tokens"].push_back({{"id", id},
                                     {"content", token},
                                     {"single_word", single},
                                     {"lstrip", left},
                                     {"rstrip", right},
                                     {"normalized", normalized},
                                     {"special", special}});
  }

  fs::path folder_;
  Field config_;
  Json json_;
  std::set<std::string> added_;
  std::map<std::string, std::int32_t> others_;
};

Json roberta_processing(const Made& made, const std::string& cls, const std::string& sep) {
  return {{"type", "RobertaProcessing"},
          {"sep", made.named(sep)},
          {"cls", made.named(cls)},
          {"trim_offsets", true},
          {"add_prefix_space", false}};
}

Json byte_level(bool prefix, bool words) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", prefix}, {"trim_offsets", true}, {"use_regex", words}};
}

Json split(const char* expression, const char* behavior, bool invert) {
  return {{"type", "Split"}, {"pattern", {{"Regex", expression}}}, {"behavior", behavior}, {"invert", invert}};
}

Json sequence_of(const char* what, std::initializer_list<Json> parts) {
  return {{"type", "Sequence"}, {what, Json::array_t(parts)}};
}

}  // namespace

std::unique_ptr<JsonFile> from_word_pieces(const fs::path& folder) {
  const JsonFile config_file = optional_file(folder / "tokenizer_config.json");
  const Field config = config_file.root();
  const bool mpnet = kind_of(folder, config,
                             {{"Bert", "bert"},
                              {"DistilBert", "bert"},
                              {"Electra", "bert"},
                              {"MobileBert", "bert"},
                              {"MPNet", "mpnet"}}) == "mpnet";
  Made made(folder, config);
  const std::string unknown = token_or(config, "unk_token", "[UNK]"),
                    pad = token_or(config, "pad_token", mpnet ? "<pad>" : "[PAD]");
  const std::string cls = token_or(config, "cls_token", mpnet ? "<s>" : "[CLS]");
  const std::string sep = token_or(config, "sep_token", mpnet ? "</s>" : "[SEP]");
  made["model"] = {{"type", "WordPiece"},
                   {"unk_token", unknown},
                   {"continuing_subword_prefix", "##"},
                   {"max_input_chars_per_word", 100},
                   {"vocab", Json::object()}};
  std::int32_t id = 0;
  for (std::string& line : lines_of(folder / "vocab.txt")) {
    for (std::size_t end = line.size(); end > 0 && is_whitespace(previous_character(line, end));) line.resize(end);
    made.vocabulary()[line] = id++;
  }
  made["normalizer"] = {{"type", "BertNormalizer"},
                        {"clean_text", true},
                        {"handle_chinese_chars", config.boolean_or("tokenize_chinese_chars", true)},
                        {"strip_accents", nullptr},
                        {"lowercase", config.boolean_or("do_lower_case", true)}};
  if (const auto strip = config.find("strip_accents")) made["normalizer"]["strip_accents"] = strip->boolean();
  made["pre_tokenizer"] = {{"type", "BertPreTokenizer"}};
  if (mpnet) made["post_processor"] = roberta_processing(made, cls, sep);
  else made["post_processor"] = {{"type", "BertProcessing"}, {"sep", made.named(sep)}, {"cls", made.named(cls)}};
  made.add_listed();
  for (const std::string& token : {pad, unknown, cls, sep}) made.add_special(token);
  made.add_special(token_or(config, "mask_token", mpnet ? "<mask>" : "[MASK]"), mpnet);
  made.add_others();
  return made.file("vocab.txt");
}

std::unique_ptr<JsonFile> from_merges(const fs::path& folder) {
  const JsonFile config_file = optional_file(folder / "tokenizer_config.json");
  const Field config = config_file.root();
  std::string kind = kind_of(folder, config,
                             {{"CLIP", "clip"},
                              {"Roberta", "roberta"},
                              {"Bart", "roberta"},
                              {"Longformer", "roberta"},
                              {"GPT2", "gpt2"},
                              {"Qwen2", "qwen"},
                              {"Qwen3", "qwen"}});
  Made made(folder, config);
  made["model"] = {{"type", "BPE"}, {"vocab", Json::object()}, {"merges", Json::array()}};
  Json& vocabulary = made.vocabulary();
  bool has_word_ends = false;
  const JsonFile vocabulary_file(folder / "vocab.json");
  vocabulary_file.root().for_each([&](const std::string& token, const Field& id) {
    vocabulary[token] = id.id();
    has_word_ends = has_word_ends || token.ends_with("</w>");
  });
  for (const std::string& line : lines_of(folder / "merges.txt")) {
    if (!line.empty() && !line.starts_with("#version")) made["model"]["merges"].push_back(line);
  }
  if (kind.empty()) kind = has_word_ends ? "clip" : vocabulary.contains("<s>") ? "roberta" : "gpt2";
  const bool prefix = config.boolean_or("add_prefix_space", false);
  made.add_listed();
  if (kind == "clip") {
    const std::string begin = token_or(config, "bos_token", "<|startoftext|>");
    const std::string end = token_or(config, "eos_token", "<|endoftext|>");
    made["model"]["end_of_word_suffix"] = "</w>";
    made["model"]["unk_token"] = token_or(config, "unk_token", "<|endoftext|>");
    made["normalizer"] =
        sequence_of("normalizers", {{{"type", "NFC"}},
                                    {{"type", "Replace"}, {"pattern", {{"Regex", "\\s+"}}}, {"content", " "}},
                                    {{"type", "Lowercase"}}});
    made["pre_tokenizer"] = sequence_of(
        "pretokenizers", {split(R"('s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+)", "Removed", true),
                          byte_level(false, true)});
    made["post_processor"] = roberta_processing(made, begin, end);
    for (const std::string& token : {begin, end}) made.add_special(token);
  } else if (kind == "roberta") {
    const std::string cls = token_or(config, "cls_token", "<s>"), sep = token_or(config, "sep_token", "</s>");
    made["model"]["unk_token"] = token_or(config, "unk_token", "<unk>");
    made["pre_tokenizer"] = byte_level(prefix, true);
    made["post_processor"] = roberta_processing(made, cls, sep);
    for (const std::string& token :
         {cls, sep, token_or(config, "pad_token", "<pad>"), token_or(config, "unk_token", "<unk>")}) {
      made.add_special(token);
    }
    made.add_special(token_or(config, "mask_token", "<mask>"), true);
  } else if (kind == "qwen") {
    made["normalizer"] = {{"type", "NFC"}};
    made["pre_tokenizer"] = sequence_of(
        "pretokenizers",
        {split(R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|)"
               R"(\s+(?!\S)|\s+)",
               "Isolated", false),
         byte_level(false, false)});
    made.add_special("<|endoftext|>");
  } else {
    made["pre_tokenizer"] = byte_level(prefix, true);
    made["model"]["unk_token"] = token_or(config, "unk_token", "<|endoftext|>");
    made.add_special("<|endoftext|>");
  }
  made.add_others();
  return made.file("merges.txt");
}

}  // namespace tapecache::data::tokenizers
