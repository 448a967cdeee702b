// Tokenizer files that are malformed, or ask for what is not supported, each refused with its name and the field's.
#include <sys/stat.h>

#include <string>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <nlohmann/json.hpp>

#include "checks.h"
#include "tapecache/core/error.h"
#include "tapecache/data/tokenizers/tokenizer.h"
#include "tokenizer_cases.h"

using namespace tapecache;
using namespace tapecache::data;
using namespace tapecache::testing;
using nlohmann::json;

struct Files : Folder {
  void refused(const std::string& text, std::vector<std::string> words) {
    put(*this / "given.json", text);
    words.emplace_back("given.json");
    BOOST_TEST_CONTEXT(text.substr(0, 200)) {
      BOOST_CHECK_EXCEPTION(Tokenizer::load(*this / "given.json"), FileError, says(words));
    }
  }
  /// A tokenizer of words with this in it.
  void refused(const char* field, const char* value, std::vector<std::string> words) {
    json file = json::parse(R"({"model": {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"}})");
    file[field] = json::parse(value);
    words.push_back(field);
    refused(file.dump(), std::move(words));
  }
};

BOOST_FIXTURE_TEST_SUITE(tokenizer_refusals, Files)

BOOST_AUTO_TEST_CASE(no_file) {
  BOOST_CHECK_EXCEPTION(Tokenizer::load(*this / "none.json"), FileError, says({"none.json"}));
  BOOST_CHECK_EXCEPTION(Tokenizer::load(path()), FileError, says({"holds no tokenizer", "vocab.txt"}));
  // A pipe that nobody writes to would be waited for without end.
  BOOST_REQUIRE(::mkfifo((*this / "pipe.json").c_str(), 0600) == 0);
  BOOST_CHECK_EXCEPTION(Tokenizer::load(*this / "pipe.json"), FileError, says({"pipe.json", "regular file"}));
  put(*this / "spiece.model", "x");
  BOOST_CHECK_EXCEPTION(Tokenizer::load(path()), FileError, says({"spiece.model", "is no model of SentencePiece"}));
  put(*this / "spiece.model", "");
  BOOST_CHECK_EXCEPTION(Tokenizer::load(path()), FileError, says({"spiece.model", "has no pieces"}));
}

BOOST_AUTO_TEST_CASE(models_of_sentencepiece) {
  const std::string unigram = contents(kReference / "t5_model" / "spiece.model");
  const auto refused_as = [&](const std::string& config, std::vector<std::string> words) {
    put(*this / "tokenizer_config.json", config);
    BOOST_CHECK_EXCEPTION(Tokenizer::load(path()), FileError, says(std::move(words)));
  };
  put(*this / "spiece.model", unigram);
  refused_as("{}", {"spiece.model", "Unigram, of a tokenizer that no configuration names"});
  refused_as(R"({"tokenizer_class": "LlamaTokenizer"})",
             {"Unigram, of llama", "or of Llama or Gemma (BPE)", "tokenizer.json"});
  refused_as(R"({"tokenizer_class": "PegasusTokenizer"})", {"tokenizer_class", "'Pegasus'"});
  refused_as(R"({"tokenizer_class": "Siglip2Tokenizer"})", {"Unigram, of gemma", "or of Llama or Gemma (BPE)"});
  refused_as(R"({"tokenizer_class": "SiglipTokenizer", "pad_token": "<none>"})", {"has no '<none>'"});
  refused_as(R"({"tokenizer_class": "SiglipTokenizer", "model_max_length": -1})", {"model_max_length", "-1"});
  refused_as(R"({"tokenizer_class": "T5Tokenizer", "extra_ids": -1})", {"extra_ids"});
  refused_as(R"({"tokenizer_class": "T5Tokenizer", "eos_token": "<end>"})", {"has no '<end>'"});
  put(*this / "tokenizer_config.json", R"({"tokenizer_class": "T5Tokenizer"})");
  Tokenizer::load(path());
  int loaded = 0;
  for (std::size_t length = 0; length < unigram.size(); length += 61) {
    put(*this / "spiece.model", unigram.substr(0, length));
    try {
      Tokenizer::load(path());
      ++loaded;  // cut behind a piece it is a smaller one
    } catch (const FileError&) {
    }
  }
  BOOST_TEST(loaded < 40);
  // What SigLIP's models have not: tokens for bytes, such as its user asked for, and blanks that are not joined.
  const std::string piece(
      "\x0a\x0a\x0a\x01"
      "a\x15\x00\x00\x80\xbf\x18\x01",
      12);
  std::string of_user = piece;
  of_user.back() = '\x04';
  for (const std::string& model :
       {piece + "\x12\x03\x98\x02\x01", piece + of_user, piece + std::string("\x1a\x02\x20\x00", 4)}) {
    put(*this / "spiece.model", model);
    refused_as(R"({"tokenizer_class": "SiglipTokenizer"})", {"spiece.model", "expected a model without, as SigLIP's"});
  }
  // A score that is no number, and text that is none.
  put(*this / "spiece.model", std::string("\x0a\x08\x0a\x01"
                                          "a\x15\x00\x00\xc0\x7f",
                                          10));
  refused_as("{}", {"piece 0 has the score nan"});
  put(*this / "spiece.model", std::string("\x0a\x03\x0a\x01\xff", 5));
  refused_as("{}", {"piece 0 is not UTF-8"});
}

BOOST_AUTO_TEST_CASE(truncated_at_any_length) {
  const std::string bytes = contents(kReference / "delimiters" / "tokenizer.json");
  for (std::size_t length = 0; length + 1 < bytes.size(); length += 997) refused(bytes.substr(0, length), {"not JSON"});
}

BOOST_AUTO_TEST_CASE(no_tokenizer_in_json) {
  refused("[]", {"is [], expected a JSON object"});
  refused("{}", {"has no 'model'"});
  refused(R"({"model": null})", {"model is null, expected an object"});
  refused("{\"model\": \"\xFF\"}", {"not JSON"});
  refused(std::string(100000, '['), {"nested in more than 64"});
  refused("version", "\"2.0\"", {"'2.0', expected 1.0"});
  refused("extra", "1", {"not supported"});
}

BOOST_AUTO_TEST_CASE(models) {
  refused("model", R"({"type": "Other", "vocab": {}})", {"model.type", "'Other'"});
  refused("model", R"({"type": "WordLevel", "vocab": [], "unk_token": "a"})", {"model.vocab", "expected an object"});
  refused("model", R"({"type": "WordLevel", "vocab": {"a": -1}, "unk_token": "a"})", {"model.vocab.a", "-1"});
  refused("model", R"({"type": "WordLevel", "vocab": {"a": 16777216}, "unk_token": "a"})",
          {"model.vocab.a", "16777216"});
  refused("model", R"({"type": "WordLevel", "vocab": {"a": 0.5}, "unk_token": "a"})", {"model.vocab.a", "0.5"});
  refused("model", R"({"type": "WordLevel", "vocab": {"a": 0}})", {"model: has no 'unk_token'"});
  refused("model", R"({"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "a", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 5, "more": 1})",
          {"model.more"});
  refused("model", R"({"type": "BPE", "vocab": {"a": 0}, "merges": [["a"]]})", {"model.merges[0]", "two tokens"});
  refused("model", R"({"type": "BPE", "vocab": {"a": 0}, "merges": ["a b c"]})", {"model.merges[0]", "'a b c'"});
  refused("model", R"({"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]})",
          {"model.merges[0]", "'b'", "vocabulary"});
  refused("model", R"({"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "a"]]})", {"model.merges[0]", "'aa'"});
  refused("model", R"({"type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 0.1})", {"model.dropout"});
  refused("model", R"({"type": "Unigram", "vocab": [["a"]]})", {"model.vocab[0]", "score"});
  refused("model", R"({"type": "Unigram", "vocab": [["a", "b"]]})", {"model.vocab[0][1]", "number"});
  refused("model", R"({"type": "Unigram", "vocab": [["a", 0]], "unk_id": 1})", {"model.unk_id"});
}

BOOST_AUTO_TEST_CASE(normalizers) {
  refused("normalizer", R"({"type": "Other"})", {"normalizer.type", "'Other'"});
  refused("normalizer", R"({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFX"}]})",
          {"normalizer.normalizers[1].type"});
  refused("normalizer", R"({"type": "NFC", "more": 1})", {"normalizer.more"});
  refused("normalizer", R"({"type": "BertNormalizer", "clean_text": 1})",
          {"normalizer.clean_text is 1, expected true or false"});
  refused("normalizer", R"({"type": "Precompiled", "precompiled_charsmap": "!"})", {"precompiled_charsmap", "base 64"});
  refused("normalizer", R"({"type": "Precompiled", "precompiled_charsmap": "//////8="})", {"precompiled_charsmap"});
  refused("normalizer", R"({"type": "Replace", "pattern": {"String": ""}, "content": "a"})", {"normalizer.pattern"});
}

BOOST_AUTO_TEST_CASE(regular_expressions) {
  const std::pair<const char*, const char*> faults[] = {
      {"(", "not a regular expression"}, {R"(\\G)", "not supported"},  {R"([a&&b])", "intersection"},
      {R"([[:alpha:]])", "a class in"},  {R"(a{1,2}+)", "repetition"}, {R"((*ACCEPT))", "a verb"},
      {R"((a)\\1)", "not supported"},    {R"([a\\W])", "in a class"},  {R"(a\\)", "at the end"},
  };
  for (const auto& [expression, word] : faults) {
    refused("pre_tokenizer",
            (std::string(R"({"type": "Split", "behavior": "Isolated", "invert": false, "pattern": {"Regex": ")") +
             expression + "\"}}")
                .c_str(),
            {"pre_tokenizer.pattern.Regex", word});
  }
}

BOOST_AUTO_TEST_CASE(pre_tokenizers) {
  refused("pre_tokenizer", R"({"type": "UnicodeScripts"})", {"pre_tokenizer.type", "'UnicodeScripts'"});
  refused("pre_tokenizer", R"({"type": "Punctuation", "behavior": "Other"})", {"pre_tokenizer.behavior", "'Other'"});
  refused("pre_tokenizer", R"({"type": "Metaspace", "replacement": "ab"})",
          {"pre_tokenizer.replacement", "one character"});
  refused("pre_tokenizer", R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "last"})",
          {"pre_tokenizer.prepend_scheme", "'last'"});
  refused("pre_tokenizer", R"({"type": "FixedLength", "length": 0})", {"pre_tokenizer.length"});
}

BOOST_AUTO_TEST_CASE(templates) {
  refused("post_processor", R"({"type": "Other"})", {"post_processor.type"});
  refused("post_processor", R"({"type": "BertProcessing", "sep": ["a"], "cls": ["a", 0]})", {"post_processor.sep"});
  refused("post_processor",
          R"({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "B", "type_id": 0}}], "pair": [],
              "special_tokens": {}})",
          {"post_processor.single[0].Sequence.id", "expected A"});
  refused("post_processor",
          R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}], "pair": [],
              "special_tokens": {}})",
          {"post_processor.single[0].SpecialToken.id", "'x'"});
  refused("post_processor",
          R"({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}},
              {"Sequence": {"id": "A", "type_id": 1}}], "pair": [], "special_tokens": {}})",
          {"post_processor.single[1].Sequence", "twice"});
}

BOOST_AUTO_TEST_CASE(added_tokens) {
  refused("added_tokens", R"([{"id": 1, "content": "a"}])", {"added_tokens[0].id", "'a' is 0"});
  refused("added_tokens", R"([{"id": 0, "content": "b"}])", {"added_tokens[0].id", "that of 'a'"});
  refused("added_tokens", R"([{"id": 2, "content": "b"}, {"id": 2, "content": "c"}])", {"added_tokens[1].id"});
  refused("added_tokens", R"([{"id": 2, "content": "b", "odd": true}])", {"added_tokens[0].odd"});
}

BOOST_AUTO_TEST_CASE(limits) {
  refused("truncation", R"({"max_length": 5, "strategy": "Other", "stride": 0})", {"truncation.strategy"});
  refused("truncation", R"({"max_length": -5, "strategy": "OnlyFirst"})", {"truncation.max_length"});
  refused("padding", R"({"strategy": "Other", "direction": "Left", "pad_id": 0})", {"padding.strategy"});
  refused("padding", R"({"strategy": {"Fixed": 99999999999}, "direction": "Left"})", {"padding.strategy.Fixed"});
}

BOOST_AUTO_TEST_CASE(no_token_for_the_unknown) {
  put(*this / "given.json", R"({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}})");
  const Tokenizer tokenizer = Tokenizer::load(*this / "given.json");
  BOOST_TEST(tokenizer.encode("a").ids == std::vector<std::int32_t>{0}, boost::test_tools::per_element());
  BOOST_CHECK_EXCEPTION(tokenizer.encode("b"), ValueError, says({"'b' has no token"}));
  // It goes on after what it has refused.
  BOOST_TEST(tokenizer.encode("a").ids == std::vector<std::int32_t>{0}, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_SUITE_END()
