#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "folder.h"
#include "pairs_file.h"
#ifdef TAPECACHE_HAS_TOKENIZERS
#include "tapecache/data/tokenizers/tokenizer.h"
#endif
#include "tapecache/data/word_tokenizer.h"
#include "target_parts.h"

namespace tapecache::testing {

namespace {

/// Lines are words of the vocabulary, until an empty one; the rest is text.
void tokenize_anything(std::string_view bytes) {
  const std::size_t end = std::min(bytes.find("\n\n"), bytes.size());
  const std::string_view text = bytes.substr(std::min(end + 2, bytes.size()));
  std::vector<std::string> words;
  for (std::size_t begin = 0; begin < end;) {
    const std::size_t line = std::min(bytes.find('\n', begin), end);
    words.emplace_back(bytes.substr(begin, line - begin));
    begin = line + 1;
  }
  const auto check = [&](const data::WordTokenizer& tokenizer) {
    constexpr int kMax = 40;
    const std::vector<std::int32_t> ids = tokenizer.encode(text, kMax);
    require(ids.size() >= 2 && ids.size() <= kMax, "the number of ids is out of range");
    require(ids.front() == data::WordTokenizer::kBegin && ids.back() == data::WordTokenizer::kEnd,
            "ids lack their marks");
    require(std::ranges::all_of(ids, [&](std::int32_t id) { return id >= 0 && id < tokenizer.vocabulary_size(); }),
            "an id is out of range");
  };
  try {
    check(data::WordTokenizer(words));
  } catch (const ValueError&) {
    // One of the words is none.
  }
  check(data::WordTokenizer::build(words, 1));
}

std::vector<std::string> tokenizer_seeds() {
  return {"red\nheart\n\nA red HEART, größer 3rd", "\n\n", "a\n\n\xff\xc3"};
}

/// The first byte chooses the kind of file and the options.
void read_any_pairs(std::string_view bytes) {
  if (bytes.empty()) return;
  const auto choice = static_cast<unsigned char>(bytes.front());
  const char* names[] = {"p.csv", "p.tsv", "p.jsonl"};
  const Folder folder;
  const auto path = folder / names[choice % 3];
  put(path, bytes.substr(1));
  program::Pairs pairs;
  if (!takes(
          [&] { pairs = program::read_pairs(path, {.header = (choice & 4) != 0, .skip_empty = (choice & 8) != 0}); })) {
    return;
  }
  require(pairs.size() > 0 && pairs.anchors.size() == pairs.positives.size() &&
              pairs.negatives.size() == static_cast<std::size_t>(pairs.size() * pairs.hard_negatives),
          "sides of pairs differ in number");
}

std::vector<std::string> pairs_seeds() {
  return {
      "\x06"
      "anchor,positive\n\"a, \"\"b\"\"\nc\",d\n",
      "\x07"
      "query\tpassage\tnegative\na\tb\tc\n",
      "\x01"
      "a\tb\n",
      "\x0e"
      "{\"anchor\": \"a\", \"positive\": \"b\", \"neg\": [\"c\"]}\n"};
}

#ifdef TAPECACHE_HAS_TOKENIZERS
/// A tokenizer.json, a NUL and a text.
void tokenize_by_any_file(std::string_view bytes) {
  const std::size_t end = std::min(bytes.find('\0'), bytes.size());
  const std::string text(bytes.substr(std::min(end + 1, bytes.size())));
  const MemoryFile file(bytes.substr(0, end));
  std::optional<data::Tokenizer> tokenizer;
  if (!takes([&] { tokenizer.emplace(data::Tokenizer::load(file.path())); })) return;
  const auto check = [&](const data::Tokenizer::Encoding& encoding) {
    require(encoding.ids.size() == encoding.types.size(), "ids and types differ in number");
    require(std::ranges::all_of(encoding.ids, [&](auto id) { return id >= 0 && id < tokenizer->vocabulary_size(); }),
            "an id is out of range");
  };
  try {
    const data::Tokenizer::Encoding alone = tokenizer->encode(text);
    check(alone);
    check(tokenizer->encode_pair(text, text, {.pad = true}));
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
    const data::Tokenizer::Encoding found = tokenizer->encode("Hello <s> \u00c5land, don't!  \u4e2d\u6587 123\xff");
    require(std::ranges::all_of(found.ids, [&](auto id) { return id >= 0 && id < tokenizer->vocabulary_size(); }),
            "an id that the vocabulary has not");
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
  const std::string text = std::string(1, '\0') + "Hello <s> \u00c5land, don't!  \u4e2d\u6587 123\xff";
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
#endif

constexpr FuzzTarget kTextTargets[] = {
    {"pairs", read_any_pairs, pairs_seeds},
    {"word_tokenizer", tokenize_anything, tokenizer_seeds},
#ifdef TAPECACHE_HAS_TOKENIZERS
    {"tokenizer", tokenize_by_any_file, tokenizer_file_seeds},
    {"sentencepiece", tokenize_by_any_model, sentencepiece_seeds},
#endif
};

}  // namespace

std::span<const FuzzTarget> text_targets() { return kTextTargets; }

}  // namespace tapecache::testing
