#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "folder.h"
#include "target_parts.h"
#ifdef TAPECACHE_HAS_TOKENIZERS
#include "tapecache/data/tokenizers/tokenizer.h"
#endif

namespace tapecache::testing {

#ifdef TAPECACHE_HAS_TOKENIZERS
namespace {

constexpr std::string_view kText = "Hello <s> \u00c5land, don't!  \u4e2d\u6587 123\xff";

void check_ids(const data::Tokenizer& tokenizer, const data::Tokenizer::Encoding& encoding) {
  require(encoding.ids.size() == encoding.types.size(), "ids and types differ in number");
  require(std::ranges::all_of(encoding.ids, [&](auto id) { return id >= 0 && id < tokenizer.vocabulary_size(); }),
          "an id is out of range");
}

/// A tokenizer.json, a NUL and a text.
void tokenize_by_any_file(std::string_view bytes) {
  const std::size_t end = std::min(bytes.find('\0'), bytes.size());
  const std::string text(bytes.substr(std::min(end + 1, bytes.size())));
  const MemoryFile file(bytes.substr(0, end));
  std::optional<data::Tokenizer> tokenizer;
  if (!takes([&] { tokenizer.emplace(data::Tokenizer::load(file.path())); })) return;
  try {
    const data::Tokenizer::Encoding alone = tokenizer->encode(text);
    check_ids(*tokenizer, alone);
    check_ids(*tokenizer, tokenizer->encode_pair(text, text, {.pad = true}));
    const std::string batch[] = {text, "", text};
    require(tokenizer->encode_batch(batch)[2].ids == alone.ids, "a text has other ids in a batch");
    require(tokenizer->encode(text, {.max_tokens = 8}).ids.size() <= 8, "more ids than were asked for");
  } catch (const ValueError&) {
    // Its truncation cannot be done, or it has no token for the unknown.
  }
}

/// A model of SentencePiece, as T5's or, where its first byte is one of these, as another's.
void tokenize_by_any_model(std::string_view bytes) {
  static const Folder folder;
  const std::size_t kind = std::min(std::string_view("BSG").find(bytes.substr(0, 1)), std::size_t{3});
  const char* const configs[] = {R"({"tokenizer_class": "LlamaTokenizer"})",
                                 R"({"tokenizer_class": "SiglipTokenizer"})",
                                 R"({"tokenizer_class": "Siglip2Tokenizer", "eos_token": "</s>"})",
                                 R"({"tokenizer_class": "T5Tokenizer", "extra_ids": 2})"};
  put(folder / "tokenizer_config.json", configs[bytes.empty() ? 3 : kind]);
  put(folder / "spiece.model", bytes.substr(bytes.empty() || kind == 3 ? 0 : 1));
  std::optional<data::Tokenizer> tokenizer;
  if (!takes([&] { tokenizer.emplace(data::Tokenizer::load(folder.path())); })) return;
  try {
    check_ids(*tokenizer, tokenizer->encode(kText));
  } catch (const ValueError&) {
    // It has no token for the unknown.
  }
}

std::vector<std::string> sentencepiece_seeds() {
  const auto field = [](char key, const std::string& value) {
    return std::string{key, static_cast<char>(value.size())} + value;
  };
  std::string pieces;
  for (const char* const text : {"<pad>", "</s>", "<unk>", "<s>", "\u2581", "H", "e", "l", "He", "ll", "\u2581He"}) {
    const bool is_control = text[0] == '<';
    pieces += field(
        0x0A, field(0x0A, text) + std::string("\x15\x00\x00\x80\xbf\x18", 6) + static_cast<char>(is_control ? 3 : 1));
  }
  const std::string unigram("\x12\x05\x18\x01\xc0\x02\x02", 7), bpe("\x12\x05\x18\x02\xc0\x02\x02", 7);
  return {pieces + unigram, "B" + pieces + bpe, "S" + pieces + unigram, "G" + pieces + bpe};
}

std::vector<std::string> tokenizer_file_seeds() {
  const std::string text = std::string(1, '\0') + std::string(kText);
  const std::string added = R"("added_tokens":[{"id":9,"content":"<s>","lstrip":true,"normalized":false}],)";
  return {
      R"({)" + added +
          R"("normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,)"
          R"("strip_accents":null,"lowercase":true},"pre_tokenizer":{"type":"BertPreTokenizer"},)"
          R"("post_processor":{"type":"BertProcessing","sep":["c",2],"cls":["b",1]},)"
          R"("truncation":{"direction":"Right","max_length":6,"strategy":"LongestFirst","stride":0},)"
          R"("model":{"type":"WordPiece","unk_token":"u","continuing_subword_prefix":"##","max_input_chars_per_word":9,)"
          R"("vocab":{"u":0,"b":1,"c":2,"he":3,"##l":4,"##lo":5,",":6,"aland":7}}})" +
          text,
      R"({)" + added +
          R"("normalizer":{"type":"NFC"},"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split",)"
          R"("pattern":{"Regex":"\\s+|\\p{L}+"},"behavior":"Isolated","invert":false},)"
          R"({"type":"ByteLevel","add_prefix_space":true,"use_regex":true}]},)"
          R"("model":{"type":"BPE","vocab":{"H":0,"e":1,"l":2,"He":3,"ll":4,"Hell":5},"merges":[["H","e"],"l l","He ll"]}})" +
          text,
      R"({"normalizer":{"type":"Sequence","normalizers":[)"
      R"({"type":"Precompiled","precompiled_charsmap":"DAAAAAAEAACAAAAAAAAAAGEA"},)"
      R"({"type":"Replace","pattern":{"String":"l"},"content":"L"}]},"pre_tokenizer":{"type":"Metaspace",)"
      R"("replacement":"_","prepend_scheme":"first"},"padding":{"strategy":{"Fixed":9},"direction":"Left","pad_id":1,)"
      R"("pad_type_id":0,"pad_token":"_"},"model":{"type":"Unigram","unk_id":0,"byte_fallback":true,)"
      R"("vocab":[["u",0],["_",-1],["He",-2],["_He",-2.5],["<0xFF>",-9]]}})" +
          text,
  };
}

// Beside one another, as older folders have them in the place of a tokenizer.json.
constexpr std::string_view kTokenizerFiles[] = {
    "vocab.txt",         "vocab.json",  "merges.txt",           "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "config.json", "open_clip_config.json"};

/// The files of a folder; see `for_each_file`. Those of two kinds of vocabulary may stand beside each other.
void tokenize_by_any_folder(std::string_view bytes) {
  static const Folder folder;
  for (const std::string_view file : kTokenizerFiles) std::filesystem::remove(folder / std::string(file));
  for_each_file(bytes, [&](std::string_view file, std::string_view inside) {
    if (std::ranges::find(kTokenizerFiles, file) != std::end(kTokenizerFiles)) put(folder / std::string(file), inside);
  });
  std::optional<data::Tokenizer> tokenizer;
  if (!takes([&] { tokenizer.emplace(data::Tokenizer::load(folder.path())); })) return;
  try {
    const data::Tokenizer::Encoding alone = tokenizer->encode(kText);
    check_ids(*tokenizer, alone);
    check_ids(*tokenizer, tokenizer->encode_pair(kText, "He", {.pad = true}));
    require(tokenizer->encode(kText, {.max_tokens = 8}).ids.size() <= 8, "more ids than were asked for");
  } catch (const ValueError&) {
    // It has no token for the unknown, or none of those that a text is put between.
  }
}

std::vector<std::string> tokenizer_folder_seeds() {
  return {
      "=== vocab.txt\n[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhe\n##l\n##lo\n,\naland\n=== tokenizer_config.json\n"
      "{\"tokenizer_class\": \"BertTokenizer\", \"do_lower_case\": true, \"model_max_length\": 9, \"strip_accents\": "
      "null}\n=== added_tokens.json\n{\"<s>\": 10}\n",
      "=== vocab.json\n{\"<s>\": 0, \"<pad>\": 1, \"</s>\": 2, \"<unk>\": 3, \"H\": 4, \"e\": 5, \"l\": 6, \"He\": 7, "
      "\"ll\": 8, \"\u0120\": 9, \"<mask>\": 10}\n=== merges.txt\n#version: 0.2\nH e\nl l\n=== "
      "tokenizer_config.json\n{\"tokenizer_class\": \"RobertaTokenizer\", \"add_prefix_space\": true}\n=== "
      "special_tokens_map.json\n{\"bos_token\": \"<s>\", \"eos_token\": {\"content\": \"</s>\"}}\n",
      "=== vocab.json\n{\"H\": 0, \"e\": 1, \"l</w>\": 2, \"He\": 3, \"<|startoftext|>\": 4, \"<|endoftext|>\": 5}\n"
      "=== merges.txt\n#version: 0.2\nH e\n=== config.json\n{\"model_type\": \"clip\", \"text_config\": "
      "{\"eos_token_id\": 5}}\n=== tokenizer_config.json\n{\"tokenizer_class\": \"CLIPTokenizer\", "
      "\"unk_token\": \"<|endoftext|>\"}\n"};
}

constexpr FuzzTarget kTokenizerTargets[] = {
    {"tokenizer", tokenize_by_any_file, tokenizer_file_seeds},
    {"tokenizer_folder", tokenize_by_any_folder, tokenizer_folder_seeds},
    {"sentencepiece", tokenize_by_any_model, sentencepiece_seeds},
};

}  // namespace

std::span<const FuzzTarget> tokenizer_targets() { return kTokenizerTargets; }
#else
std::span<const FuzzTarget> tokenizer_targets() { return {}; }
#endif

}  // namespace tapecache::testing
