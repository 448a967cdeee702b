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

#include "tapecache/data/tokenizers/sentencepiece_file.h"
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

namespace {

std::string in_base64(std::string_view bytes) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (std::size_t at = 0; at < bytes.size(); at += 3) {
    const std::size_t count = std::min<std::size_t>(3, bytes.size() - at);
    unsigned three = 0;
    for (std::size_t i = 0; i < 3; ++i) {
      three = three << 8 | (i < count ? static_cast<unsigned char>(bytes[at + i]) : 0u);
    }
    for (std::size_t i = 0; i < 4; ++i) text.push_back(i <= count ? kDigits[three >> (18 - 6 * i) & 0x3F] : '=');
  }
  return text;
}

Json metaspace(const char* scheme, bool splits) {
  return of_type("Metaspace",
                 {{"replacement", text("\u2581")}, {"prepend_scheme", text(scheme)}, {"split", Json::of(splits)}});
}

/// A text between special tokens: the parts are those, "$A" and "$B", each with the segment behind it.
Json template_part(const std::string& part, std::int64_t segment) {
  const bool is_text = part == "$A" || part == "$B";
  return Json::object(
      {{is_text ? "Sequence" : "SpecialToken",
        Json::object({{"id", text(is_text ? part.substr(1) : part)}, {"type_id", Json::of(segment)}})}});
}

Json template_of(const Made& made, const std::vector<std::pair<std::string, std::int64_t>>& single,
                 const std::vector<std::pair<std::string, std::int64_t>>& pair) {
  Json tokens = Json::object();
  const auto parts = [&](const auto& listed) {
    Json all = Json::array();
    for (const auto& [part, segment] : listed) {
      all.items.push_back(template_part(part, segment));
      if (part.starts_with('$') || tokens.find(part)) continue;
      tokens.set(part, Json::object({{"id", text(part)},
                                     {"ids", Json::array({made.named(part).items[1]})},
                                     {"tokens", Json::array({text(part)})}}));
    }
    return all;
  };
  Json of_single = parts(single), of_pair = parts(pair);
  return of_type(
      "TemplateProcessing",
      {{"single", std::move(of_single)}, {"pair", std::move(of_pair)}, {"special_tokens", std::move(tokens)}});
}

/// The list of a Unigram's tokens and scores, as it is made.
class Scored {
 public:
  explicit Scored(Made& made) : made_(made) {}
  void add(const std::string& token, double score) {
    made_.put(token, static_cast<std::int32_t>(list_.items.size()));
    list_.items.push_back(
        Json::array({text(token), {.kind = Json::Kind::kNumber, .text = fmt::format("{:.17g}", score)}}));
  }
  void add(const SentencePieceFile::Piece& piece) { add(piece.text, static_cast<double>(piece.score)); }
  Json take() && { return std::move(list_); }

 private:
  Made& made_;
  Json list_ = Json::array();
};

Json unigram(Json vocabulary, std::int64_t unknown) {
  return of_type("Unigram", {{"unk_id", Json::of(unknown)}, {"vocab", std::move(vocabulary)}});
}

/// What XLM-RoBERTa and T5 have before their model.
void set_words_of_unigram(Made& made, const SentencePieceFile& file) {
  if (!file.charsmap.empty()) {
    made.set("normalizer", of_type("Precompiled", {{"precompiled_charsmap", text(in_base64(file.charsmap))}}));
  }
  made.set("pre_tokenizer", sequence_of("pretokenizers", {of_type("WhitespaceSplit"), metaspace("always", true)}));
}

/// fairseq's order of the special tokens, in the place of the file's first three, and a mask behind all.
void make_xlm_roberta(Made& made, const Field& config, const SentencePieceFile& file) {
  const std::string begin = token_or(config, "bos_token", "<s>"), pad = token_or(config, "pad_token", "<pad>"),
                    end = token_or(config, "eos_token", "</s>"), unknown = token_or(config, "unk_token", "<unk>"),
                    mask = token_or(config, "mask_token", "<mask>");
  Scored vocabulary(made);
  for (const std::string& token : {begin, pad, end, unknown}) vocabulary.add(token, 0);
  for (std::size_t i = 3; i < file.pieces.size(); ++i) vocabulary.add(file.pieces[i]);
  vocabulary.add(mask, 0);
  made.set_model(unigram(std::move(vocabulary).take(), 3));
  set_words_of_unigram(made, file);
  made.set("post_processor", template_of(made, {{begin, 0}, {"$A", 0}, {end, 0}},
                                         {{begin, 0}, {"$A", 0}, {end, 0}, {end, 0}, {"$B", 0}, {end, 0}}));
  for (const std::string& token : {begin, end, unknown, pad, mask}) made.add_special(token);
}

/// The file's tokens, and those that stand for what is masked, the last of them first.
void make_t5(Made& made, const Field& config, const SentencePieceFile& file) {
  constexpr std::int64_t kMostExtra = 1 << 16;
  const auto extra = config.find("extra_ids");
  const std::int64_t count = extra ? extra->integer(kMostExtra) : 100;
  Scored vocabulary(made);
  for (const SentencePieceFile::Piece& piece : file.pieces) vocabulary.add(piece);
  for (std::int64_t i = count; i-- > 0;) vocabulary.add(fmt::format("<extra_id_{}>", i), 0);
  made.set_model(unigram(std::move(vocabulary).take(), 2));
  set_words_of_unigram(made, file);
  const std::string end = token_or(config, "eos_token", "</s>");
  made.set("post_processor", template_of(made, {{"$A", 0}, {end, 0}}, {{"$A", 0}, {end, 0}, {"$B", 0}, {end, 0}}));
  for (const std::string& token :
       {end, token_or(config, "unk_token", "<unk>"), token_or(config, "pad_token", "<pad>")}) {
    made.add_special(token);
  }
  for (std::int64_t i = 0; i < count; ++i) made.add_special(fmt::format("<extra_id_{}>", i));
}

/// A merge for each way in which two tokens make a third, in the order of the third.
void make_llama(Made& made, const Field& config, const SentencePieceFile& file, const fs::path& path) {
  constexpr std::size_t kLongest = 1024;  // SentencePiece makes none above 16 characters unless it is told to
  for (std::size_t i = 0; i < file.pieces.size(); ++i) {
    if (file.pieces[i].text.size() > kLongest) {
      throw FileError(fmt::format("{}: piece {} has {} bytes, expected at most {}", path.string(), i,
                                  file.pieces[i].text.size(), kLongest));
    }
    made.put(file.pieces[i].text, static_cast<std::int32_t>(i));
  }
  std::vector<Json> merges;
  for (const SentencePieceFile::Piece& piece : file.pieces) {
    for (std::size_t at = 0; at < piece.text.size();) {
      next_character(piece.text, at);
      if (at == piece.text.size()) break;
      const std::string left = piece.text.substr(0, at), right = piece.text.substr(at);
      if (made.has(left) && made.has(right)) merges.push_back(Json::array({text(left), text(right)}));
    }
  }
  made.set_model(of_type(
      "BPE",
      {{"fuse_unk", Json::of(true)}, {"byte_fallback", Json::of(true)}, {"merges", Json::array(std::move(merges))}}));
  made.set("pre_tokenizer", metaspace(config.boolean_or("legacy", false) ? "always" : "first", false));
  const std::string begin = token_or(config, "bos_token", "<s>"), end = token_or(config, "eos_token", "</s>");
  const bool begins = config.boolean_or("add_bos_token", false), ends = config.boolean_or("add_eos_token", false);
  const auto around = [&](const char* part, std::int64_t segment) {
    std::vector<std::pair<std::string, std::int64_t>> parts;
    if (begins) parts.emplace_back(begin, segment);
    parts.emplace_back(part, segment);
    if (ends) parts.emplace_back(end, segment);
    return parts;
  };
  auto pair = around("$A", 0);
  for (auto& part : around("$B", 1)) pair.push_back(std::move(part));
  made.set("post_processor", template_of(made, around("$A", 0), pair));
  for (const std::string& token : {token_or(config, "unk_token", "<unk>"), begin, end}) made.add_special(token);
}

}  // namespace

std::unique_ptr<JsonFile> from_sentencepiece(const fs::path& folder, const char* name) {
  const JsonFile config_file = optional_file(folder / "tokenizer_config.json");
  const Field config = config_file.root();
  const std::string kind = kind_of(
      folder, config,
      {{"XLMRoberta", "xlm_roberta"}, {"XLM-RoBERTa", "xlm_roberta"}, {"T5", "t5"}, {"MT5", "t5"}, {"Llama", "llama"}});
  const SentencePieceFile file(folder / name);
  const bool is_llama = kind == "llama";
  if (kind.empty() || (is_llama ? !file.is_bpe : !file.is_unigram)) {
    throw FileError(
        fmt::format("{}: a model of SentencePiece, {}, of {}: expected one of XLM-RoBERTa or T5 (Unigram) or "
                    "of Llama (BPE), or a tokenizer.json beside it, which transformers makes of it",
                    (folder / name).string(),
                    file.is_unigram ? "Unigram"
                    : file.is_bpe   ? "BPE"
                                    : "other",
                    kind.empty() ? "a tokenizer that no configuration names" : kind));
  }
  Made made(folder, config);
  made.add_listed();
  if (is_llama) make_llama(made, config, file, folder / name);
  else if (kind == "t5") make_t5(made, config, file);
  else make_xlm_roberta(made, config, file);
  // Control tokens and such as the user asked for stand by themselves.
  for (const SentencePieceFile::Piece& piece : file.pieces) {
    if (piece.kind == SentencePieceFile::Kind::kControl || piece.kind == SentencePieceFile::Kind::kUserDefined) {
      made.add_special(piece.text);
    }
  }
  made.add_others();
  return std::move(made).file(name);
}

}  // namespace tapecache::data::tokenizers
