#include "tapecache/data/tokenizers/vocabulary_files.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tapecache/data/tokenizers/unicode.h"
#include "tapecache/data/tokenizers/vocabulary.h"

namespace tapecache::data::tokenizers {

namespace {

namespace fs = std::filesystem;

/// A JSON file that may be missing, which is then an empty object.
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

/// Short for what the files below are made of.
Json text(std::string_view value) { return Json::of(value); }
Json of_type(const char* type, std::vector<Json::Member> others = {}) {
  others.insert(others.begin(), {"type", text(type)});
  return Json::object(std::move(others));
}

/// The tokenizer, as it is put together.
class Made {
 public:
  Made(const fs::path& folder, const Field& config) : folder_(folder), config_(config) {
    const JsonFile others = optional_file(folder_ / "added_tokens.json");
    others.root().for_each([&](const std::string& token, const Field& id) { others_[token] = id.id(); });
  }

  /// A field of the whole.
  void set(const char* name, Json value) { json_.set(name, std::move(value)); }
  void set_model(Json model) { model_ = std::move(model); }
  /// A field of the model.
  void set_of_model(const char* name, Json value) { model_.set(name, std::move(value)); }
  /// Of two ids of one token the last counts.
  void put(const std::string& token, std::int32_t id) { vocabulary_[token] = id; }
  bool has(const std::string& token) const { return vocabulary_.contains(token); }

  Json named(const std::string& token) const {
    const std::int32_t id = id_of(token);
    if (id == kNone) throw FileError(fmt::format("{}: its vocabulary has no '{}'", folder_.string(), token));
    return Json::array({text(token), Json::of(std::int64_t{id})});
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

  std::unique_ptr<JsonFile> file(const char* name) && {
    Json vocabulary = Json::object();
    for (const auto& [token, id] : vocabulary_) vocabulary.members.emplace_back(token, Json::of(std::int64_t{id}));
    model_.set("vocab", std::move(vocabulary));
    json_.set("version", text("1.0"));
    json_.set("model", std::move(model_));
    json_.set("added_tokens", std::move(added_));
    return std::make_unique<JsonFile>(folder_ / name, std::move(json_));
  }

 private:
  std::int32_t id_of(const std::string& token) const {
    if (const auto found = vocabulary_.find(token); found != vocabulary_.end()) return found->second;
    const auto other = others_.find(token);
    return other == others_.end() ? kNone : other->second;
  }

  void add(const std::string& token, std::int32_t id, bool left, bool right, bool single, bool normalized,
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

  fs::path folder_;
  Field config_;
  Json json_ = Json::object(), model_ = Json::object(), added_ = Json::array();
  std::unordered_map<std::string, std::int32_t> vocabulary_;
  std::set<std::string> names_;
  std::map<std::string, std::int32_t> others_;
};

Json roberta_processing(const Made& made, const std::string& cls, const std::string& sep) {
  return of_type("RobertaProcessing", {{"sep", made.named(sep)},
                                       {"cls", made.named(cls)},
                                       {"trim_offsets", Json::of(true)},
                                       {"add_prefix_space", Json::of(false)}});
}

Json byte_level(bool prefix, bool words) {
  return of_type(
      "ByteLevel",
      {{"add_prefix_space", Json::of(prefix)}, {"trim_offsets", Json::of(true)}, {"use_regex", Json::of(words)}});
}

Json regex(const char* expression) { return Json::object({{"Regex", text(expression)}}); }

Json split(const char* expression, const char* behavior, bool invert) {
  return of_type("Split", {{"pattern", regex(expression)}, {"behavior", text(behavior)}, {"invert", Json::of(invert)}});
}

Json sequence_of(const char* what, std::vector<Json> parts) {
  return of_type("Sequence", {{what, Json::array(std::move(parts))}});
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
  made.set_model(of_type("WordPiece", {{"unk_token", text(unknown)},
                                       {"continuing_subword_prefix", text("##")},
                                       {"max_input_chars_per_word", Json::of(std::int64_t{100})}}));
  std::int32_t id = 0;
  for (std::string& line : lines_of(folder / "vocab.txt")) {
    for (std::size_t end = line.size(); end > 0 && is_whitespace(previous_character(line, end));) line.resize(end);
    made.put(line, id++);
  }
  const auto strip = config.find("strip_accents");
  made.set("normalizer", of_type("BertNormalizer",
                                 {{"clean_text", Json::of(true)},
                                  {"handle_chinese_chars", Json::of(config.boolean_or("tokenize_chinese_chars", true))},
                                  {"strip_accents", strip ? Json::of(strip->boolean()) : Json{}},
                                  {"lowercase", Json::of(config.boolean_or("do_lower_case", true))}}));
  made.set("pre_tokenizer", of_type("BertPreTokenizer"));
  made.set("post_processor", mpnet ? roberta_processing(made, cls, sep)
                                   : of_type("BertProcessing", {{"sep", made.named(sep)}, {"cls", made.named(cls)}}));
  made.add_listed();
  for (const std::string& token : {pad, unknown, cls, sep}) made.add_special(token);
  made.add_special(token_or(config, "mask_token", mpnet ? "<mask>" : "[MASK]"), mpnet);
  made.add_others();
  return std::move(made).file("vocab.txt");
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
  bool has_word_ends = false;
  const JsonFile vocabulary_file(folder / "vocab.json");
  vocabulary_file.root().for_each([&](const std::string& token, const Field& id) {
    made.put(token, id.id());
    has_word_ends = has_word_ends || token.ends_with("</w>");
  });
  std::vector<Json> merges;
  for (const std::string& line : lines_of(folder / "merges.txt")) {
    if (!line.empty() && !line.starts_with("#version")) merges.push_back(text(line));
  }
  made.set_model(of_type("BPE", {{"merges", Json::array(std::move(merges))}}));
  if (kind.empty()) kind = has_word_ends ? "clip" : made.has("<s>") ? "roberta" : "gpt2";
  const bool prefix = config.boolean_or("add_prefix_space", false);
  made.add_listed();
  if (kind == "clip") {
    const std::string begin = token_or(config, "bos_token", "<|startoftext|>");
    const std::string end = token_or(config, "eos_token", "<|endoftext|>");
    made.set_of_model("end_of_word_suffix", text("</w>"));
    made.set_of_model("unk_token", text(token_or(config, "unk_token", "<|endoftext|>")));
    made.set("normalizer",
             sequence_of("normalizers",
                         {of_type("NFC"), of_type("Replace", {{"pattern", regex("\\s+")}, {"content", text(" ")}}),
                          of_type("Lowercase")}));
    made.set("pre_tokenizer",
             sequence_of("pretokenizers",
                         {split(R"('s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+)", "Removed", true),
                          byte_level(false, true)}));
    made.set("post_processor", roberta_processing(made, begin, end));
    for (const std::string& token : {begin, end}) made.add_special(token);
  } else if (kind == "roberta") {
    const std::string cls = token_or(config, "cls_token", "<s>"), sep = token_or(config, "sep_token", "</s>");
    made.set_of_model("unk_token", text(token_or(config, "unk_token", "<unk>")));
    made.set("pre_tokenizer", byte_level(prefix, true));
    made.set("post_processor", roberta_processing(made, cls, sep));
    for (const std::string& token :
         {cls, sep, token_or(config, "pad_token", "<pad>"), token_or(config, "unk_token", "<unk>")}) {
      made.add_special(token);
    }
    made.add_special(token_or(config, "mask_token", "<mask>"), true);
  } else if (kind == "qwen") {
    made.set("normalizer", of_type("NFC"));
    made.set(
        "pre_tokenizer",
        sequence_of(
            "pretokenizers",
            {split(
                 R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|)"
                 R"(\s+(?!\S)|\s+)",
                 "Isolated", false),
             byte_level(false, false)}));
    made.add_special("<|endoftext|>");
  } else {
    made.set("pre_tokenizer", byte_level(prefix, true));
    made.set_of_model("unk_token", text(token_or(config, "unk_token", "<|endoftext|>")));
    made.add_special("<|endoftext|>");
  }
  made.add_others();
  return std::move(made).file("merges.txt");
}

}  // namespace tapecache::data::tokenizers
