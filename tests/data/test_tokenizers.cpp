// Tokenizers of every kind against what the `tokenizers` package makes of lines in many scripts.
#include <fstream>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <nlohmann/json.hpp>

#include "checks.h"
#include "tapecache/core/error.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/data/tokenizers/open_clip_text.h"
#include "tapecache/data/tokenizers/tokenizer.h"
#include "tokenizer_cases.h"

using namespace tapecache;
using namespace tapecache::data;
using namespace tapecache::testing;
using nlohmann::json;

namespace {

std::vector<std::string> kept_lines() {
  return json::parse(contents(kReference / "lines.json")).get<std::vector<std::string>>();
}

void check_equal(const Tokenizer& tokenizer, const std::filesystem::path& expected) {
  std::ifstream rows(expected);
  std::string before;
  for (const std::string& line : kept_lines()) {
    std::uint32_t ids = 0, pair_ids = 0, pair_types = 0;
    BOOST_TEST_REQUIRE(static_cast<bool>(rows >> std::hex >> ids >> pair_ids >> pair_types));
    BOOST_TEST_CONTEXT(json(line).dump()) {
      BOOST_TEST(digest(tokenizer.encode(line).ids) == ids);
      const Tokenizer::Encoding pair = tokenizer.encode_pair(line, before);
      BOOST_TEST(digest(pair.ids) == pair_ids);
      BOOST_TEST(digest(pair.types) == pair_types);
    }
    before = line;
  }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(tokenizers)

BOOST_AUTO_TEST_CASE(ids_are_the_references) {
  std::set<std::string> kinds;
  for (const auto& entry : std::filesystem::directory_iterator(kReference)) {
    if (!entry.is_directory()) continue;
    kinds.insert(entry.path().filename().string());
    BOOST_TEST_CONTEXT(entry.path().string()) { check_equal(Tokenizer::load(entry.path()), entry.path() / "expected"); }
  }
  BOOST_TEST(kinds.size() >= 19u);
}

BOOST_AUTO_TEST_CASE(texts_are_lower_cased_where_that_is_asked_for) {
  const std::string upper = "Grüße AUS \u00c5land, DORT", lower = "grüße aus \u00e5land, dort";
  for (const char* const kind : {"bert_cased", "qwen", "modern_bert", "xlm_roberta", "bert_uncased"}) {
    BOOST_TEST_CONTEXT(kind) {
      const Tokenizer plain = Tokenizer::load(kReference / kind);
      const Tokenizer lowering = Tokenizer::load(kReference / kind, {.lower_case = true});
      BOOST_TEST(lowering.encode(upper).ids == plain.encode(lower).ids, boost::test_tools::per_element());
      BOOST_TEST(lowering.encode(lower).ids == plain.encode(lower).ids, boost::test_tools::per_element());
    }
  }
}

BOOST_AUTO_TEST_CASE(a_batch_is_its_texts) {
  const std::vector<std::string> lines = kept_lines();
  for (const char* const kind : {"bert_uncased", "qwen", "xlm_roberta"}) {
    const Tokenizer tokenizer = Tokenizer::load(kReference / kind);
    const std::vector<Tokenizer::Encoding> batch = tokenizer.encode_batch(lines);
    BOOST_TEST_REQUIRE(batch.size() == lines.size());
    for (std::size_t i = 0; i < lines.size(); ++i) {
      const Tokenizer::Encoding alone = tokenizer.encode(lines[i]);
      BOOST_TEST(batch[i].ids == alone.ids, boost::test_tools::per_element());
      BOOST_TEST(batch[i].types == alone.types, boost::test_tools::per_element());
    }
  }
}

BOOST_AUTO_TEST_CASE(truncation_and_padding_are_the_references) {
  const json rows = json::parse(contents(kReference / "limits.json"));
  const Folder folder;
  json file = json::parse(contents(kReference / "bert_uncased" / "tokenizer.json"));
  int refused = 0;
  for (const json& row : rows) {
    BOOST_TEST_CONTEXT(row.dump()) {
      file["truncation"] = row["truncation"];
      file["padding"] = row["padding"];
      put(folder / "tokenizer.json", file.dump());
      const Tokenizer tokenizer = Tokenizer::load(folder / "tokenizer.json");
      const auto first = row["first"].get<std::string>(), second = row["second"].get<std::string>();
      const EncodeOptions options{.pad = true};
      BOOST_TEST(tokenizer.pads_left() == (row["padding"]["direction"] == "Left"));
      BOOST_TEST(tokenizer.max_tokens().value() == row["truncation"]["max_length"].get<std::int64_t>());
      if (row.contains("ids")) {
        const Tokenizer::Encoding pair = tokenizer.encode_pair(first, second, options);
        BOOST_TEST(pair.ids == row["ids"].get<std::vector<std::int32_t>>(), boost::test_tools::per_element());
        BOOST_TEST(pair.types == row["types"].get<std::vector<std::int32_t>>(), boost::test_tools::per_element());
      } else {
        BOOST_CHECK_THROW(tokenizer.encode_pair(first, second, options), ValueError);
        ++refused;
      }
      if (row.contains("single")) {
        const Tokenizer::Encoding single = tokenizer.encode(first, options);
        BOOST_TEST(single.ids == row["single"].get<std::vector<std::int32_t>>(), boost::test_tools::per_element());
      } else {
        BOOST_CHECK_THROW(tokenizer.encode(first, options), ValueError);
      }
    }
  }
  BOOST_TEST(refused > 0);
  BOOST_TEST(refused < static_cast<int>(rows.size()) / 2);
}

BOOST_AUTO_TEST_CASE(options_of_a_call) {
  const Tokenizer tokenizer = Tokenizer::load(kReference / "bert_uncased");
  BOOST_TEST(!tokenizer.max_tokens().has_value());
  const std::vector<std::int32_t> whole = tokenizer.encode("hello hello hello").ids;
  const std::int32_t cls = tokenizer.id_of("[CLS]").value(), sep = tokenizer.id_of("[SEP]").value();
  BOOST_TEST(whole.front() == cls);
  BOOST_TEST(whole.back() == sep);

  const std::vector<std::int32_t> bare = tokenizer.encode("hello hello hello", {.special_tokens = false}).ids;
  BOOST_TEST(bare == std::vector(whole.begin() + 1, whole.end() - 1), boost::test_tools::per_element());

  std::vector<std::int32_t> cut(whole.begin(), whole.begin() + 3);
  cut.push_back(sep);
  BOOST_TEST(tokenizer.encode("hello hello hello", {.max_tokens = 4}).ids == cut, boost::test_tools::per_element());
  const std::vector<std::int32_t> marks{cls, sep};
  BOOST_TEST(tokenizer.encode("hello", {.max_tokens = 2}).ids == marks, boost::test_tools::per_element());
  BOOST_TEST(tokenizer.encode("").ids == marks, boost::test_tools::per_element());
  BOOST_CHECK_EXCEPTION(tokenizer.encode("hello", {.max_tokens = 1}), ValueError, says({"at most 1", "2 are special"}));
  BOOST_CHECK_EXCEPTION(tokenizer.encode("hello", {.max_tokens = -1}), ValueError, says({"at most -1"}));
  BOOST_TEST(tokenizer.encode_batch({}).empty());
}

BOOST_AUTO_TEST_CASE(vocabulary) {
  const Tokenizer tokenizer = Tokenizer::load(kReference / "bert_uncased");
  const json file = json::parse(contents(kReference / "bert_uncased" / "tokenizer.json"));
  const auto size = static_cast<std::int32_t>(file["model"]["vocab"].size());
  BOOST_TEST(tokenizer.vocabulary_size() == size);
  BOOST_TEST(tokenizer.pad_id() == tokenizer.id_of("[PAD]").value());
  BOOST_TEST(tokenizer.token(tokenizer.id_of("[MASK]").value()) == "[MASK]");
  BOOST_TEST(!tokenizer.id_of("no such token").has_value());
  BOOST_CHECK_EXCEPTION(tokenizer.token(size), ValueError, says({"no token has the id " + std::to_string(size)}));
  BOOST_CHECK_EXCEPTION(tokenizer.token(-1), ValueError, says({"no token has the id -1"}));
  BOOST_TEST(Tokenizer::load(kReference / "roberta").pad_id() == 1);
}

/// As Rust and Python replace what they decode.
BOOST_AUTO_TEST_CASE(malformed_utf8_is_the_replacement_character) {
  const std::string replacement = "\xEF\xBF\xBD";
  for (const char* const kind : {"gpt2", "llama", "words"}) {
    const Tokenizer tokenizer = Tokenizer::load(kReference / kind);
    const auto check = [&](const std::string& malformed, const std::string& repaired) {
      BOOST_TEST(tokenizer.encode(malformed).ids == tokenizer.encode(repaired).ids, boost::test_tools::per_element());
    };
    check("a\xFF", "a" + replacement);
    check("\xC3", replacement);
    check("\xC3(", replacement + "(");
    check("\xE2\x82 x", replacement + " x");
    check("\xF0\x9F\x98", replacement);
    check("\xF0\x9F\x98\xF0\x9F\x98\x80", replacement + "\xF0\x9F\x98\x80");
    check("\xED\xA0\x80", replacement + replacement + replacement);                    // a surrogate
    check("\xC0\xAF", replacement + replacement);                                      // an overlong '/'
    check("\xF4\x90\x80\x80", replacement + replacement + replacement + replacement);  // beyond the last character
    BOOST_TEST(tokenizer.encode("a\xFF").ids != tokenizer.encode("a").ids);
  }
}

BOOST_AUTO_TEST_CASE(siglip_lower_cases_what_its_file_does_not) {
  const Folder folder;
  put(folder / "tokenizer.json",
      R"({"normalizer": {"type": "Replace", "pattern": {"String": "b"}, "content": "c"},
          "model": {"type": "BPE", "vocab": {"a": 0, "c": 1, "A": 2, "B": 3}, "merges": []}})");
  const auto ids = [&] { return Tokenizer::load(folder.path()).encode("AaB").ids; };
  const std::vector<std::int32_t> as_it_is{2, 0, 3}, lower{0, 0, 1};
  BOOST_TEST(ids() == as_it_is, boost::test_tools::per_element());
  put(folder / "config.json", R"({"model_type": "siglip"})");
  BOOST_TEST(ids() == lower, boost::test_tools::per_element());
  put(folder / "tokenizer_config.json", R"({"do_lower_case": false})");
  BOOST_TEST(ids() == as_it_is, boost::test_tools::per_element());
  put(folder / "config.json", R"({"model_type": "clip"})");
  put(folder / "tokenizer_config.json", R"({"tokenizer_class": "Siglip2Tokenizer"})");
  BOOST_TEST(ids() == lower, boost::test_tools::per_element());
  // SigLIP's own class takes punctuation out too, of which a file of pieces alone says nothing.
  const auto pieces = [](const char* normalizer) {
    return std::string(R"({"normalizer": )") + normalizer +
           R"(, "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["a", -1]]}})";
  };
  put(folder / "tokenizer.json", pieces("null"));
  BOOST_CHECK_EXCEPTION(ids(), FileError, says({"tokenizer.json", "does not lower-case"}));
  put(folder / "tokenizer.json", pieces(R"({"type": "Sequence", "normalizers": [{"type": "Lowercase"}]})"));
  BOOST_TEST(ids().size() == 3u);
}

/// The lengths that SigLIP's processors ask for.
BOOST_AUTO_TEST_CASE(siglips_texts_are_padded_to_their_length) {
  for (const auto& [kind, padding] : {std::pair("siglip_model", "</s>"), std::pair("siglip2_model", "<pad>")}) {
    const Tokenizer tokenizer = Tokenizer::load(kReference / kind);
    BOOST_TEST(tokenizer.max_tokens().value() == 64);
    BOOST_TEST(tokenizer.pad_id() == tokenizer.id_of(padding).value());
    BOOST_TEST(!tokenizer.pads_left());
    for (const std::string& text : {std::string("Some WORDS, and more."), std::string(), std::string(900, 'e')}) {
      std::vector<std::int32_t> ids = tokenizer.encode(text).ids;
      BOOST_TEST(ids.size() <= 64u);
      ids.resize(64, tokenizer.pad_id());
      BOOST_TEST(tokenizer.encode(text, {.pad = true}).ids == ids, boost::test_tools::per_element());
    }
  }
  const Tokenizer siglip = Tokenizer::load(kReference / "siglip_model");
  // Of a capital sigma that ends a word, as Python has it; punctuation goes, but its full-width kin.
  BOOST_TEST(
      siglip.encode("\u039f\u03a3, \u03a3\u039f\u03a3!").ids == siglip.encode("\u03bf\u03c2 \u03c3\u03bf\u03c2").ids,
      boost::test_tools::per_element());
  BOOST_TEST(siglip.encode("the end</s>").ids == siglip.encode("the end").ids, boost::test_tools::per_element());
}

/// The values are those of transformers 5, whose classes of BERT, RoBERTa and GPT-2 keep the vocabulary of a
/// tokenizer.json alone.
BOOST_AUTO_TEST_CASE(classes_count_before_their_file) {
  const auto ids = [](const char* kind, const char* config, const std::string& text, const char* model = nullptr) {
    const Folder folder;
    std::filesystem::copy(kReference / kind / "tokenizer.json", folder / "tokenizer.json");
    if (config) put(folder / "tokenizer_config.json", config);
    if (model) put(folder / "config.json", model);
    return Tokenizer::load(folder.path()).encode(text).ids;
  };
  using Ids = std::vector<std::int32_t>;
  const std::string text = "H\u00e9llo WORLD \u4e2d\u6587 the end";
  const Ids lowered{2,    65,   1984, 2008, 2008, 2016, 80, 2016, 2004, 2008,
                    2015, 1518, 1609, 77,   2012, 1984, 62, 2006, 2015, 3};
  const Ids kept{2, 35, 2167, 2008, 2008, 2016, 1, 1518, 1609, 77, 2012, 1984, 62, 2006, 2015, 3};
  const Ids of_uncased{2,    41,   1622, 1645, 1645, 1623, 56, 1623, 1639, 1645,
                       1718, 1231, 1322, 53,   1657, 1622, 38, 1609, 1718, 3};
  struct Row {
    const char *kind, *config, *model;
    Ids expected;
  };
  const Row rows[] = {
      {"bert_cased", R"({"tokenizer_class": "BertTokenizer"})", nullptr, lowered},
      {"bert_cased", R"({"tokenizer_class": "BertTokenizer", "do_lower_case": false})", nullptr, kept},
      {"bert_cased", R"({"tokenizer_class": "BertTokenizerFast", "do_lower_case": true})", nullptr, lowered},
      {"bert_cased", R"({"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": true})", nullptr, kept},
      {"bert_cased", nullptr, R"({"model_type": "bert"})", lowered},
      {"bert_cased", nullptr, nullptr, kept},
      {"bert_cased", R"({"tokenizer_class": "BertTokenizer"})", R"({"model_type": "modernbert"})", kept},
      {"bert_cased",
       R"({"tokenizer_class": "BertTokenizer", "strip_accents": false})",
       nullptr,
       {2, 65, 2167, 2008, 2008, 2016, 80, 2016, 2004, 2008, 2015, 1518, 1609, 77, 2012, 1984, 62, 2006, 2015, 3}},
      {"bert_cased",
       R"({"tokenizer_class": "BertTokenizer", "tokenize_chinese_chars": false})",
       nullptr,
       {2, 65, 1984, 2008, 2008, 2016, 80, 2016, 2004, 2008, 2015, 1, 77, 2012, 1984, 62, 2006, 2015, 3}},
      {"bert_uncased", R"({"tokenizer_class": "BertTokenizer"})", nullptr, of_uncased},
      {"bert_uncased",
       R"({"tokenizer_class": "BertTokenizer", "do_lower_case": false})",
       nullptr,
       {2, 1, 1, 1231, 1322, 53, 1657, 1622, 38, 1609, 1718, 3}},
      {"bert_uncased",
       R"({"tokenizer_class": "BertTokenizer", "strip_accents": false})",
       nullptr,
       {2, 1, 56, 1623, 1639, 1645, 1718, 1231, 1322, 53, 1657, 1622, 38, 1609, 1718, 3}},
  };
  for (const Row& row : rows) {
    BOOST_TEST_CONTEXT(row.kind << ' ' << (row.config ? row.config : "") << (row.model ? row.model : "")) {
      BOOST_TEST(ids(row.kind, row.config, text, row.model) == row.expected, boost::test_tools::per_element());
    }
  }
  // Of another folder, as an adapter's is, the model's configuration tells.
  const Folder model;
  put(model / "config.json", R"({"model_type": "bert"})");
  BOOST_TEST(Tokenizer::load(kReference / "bert_cased", {.model = model.path()}).encode(text).ids == lowered,
             boost::test_tools::per_element());
  const Ids bare{0, 87, 75, 72, 224, 294, 71, 335, 73, 224, 55, 43, 40, 2};
  const Ids prefixed{0, 320, 75, 72, 224, 294, 71, 335, 73, 224, 55, 43, 40, 2};
  for (const auto& [config, expected] :
       {std::pair(R"({"tokenizer_class": "RobertaTokenizer"})", bare),
        std::pair(R"({"tokenizer_class": "RobertaTokenizer", "add_prefix_space": true})", prefixed),
        std::pair(R"({"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": true})", prefixed),
        std::pair(R"({"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": true})", bare)}) {
    BOOST_TEST_CONTEXT(config) {
      BOOST_TEST(ids("roberta", config, "the end of THE") == expected, boost::test_tools::per_element());
      BOOST_TEST(ids("roberta", config, " the end of THE") == prefixed, boost::test_tools::per_element());
    }
  }
}

/// By OpenCLIP, of which a folder is where it has no config.json.
BOOST_AUTO_TEST_CASE(open_clips_texts_are_cleaned) {
  const Folder folder;
  const auto configure = [&](const char* text) {
    put(folder / "open_clip_config.json", std::string(R"({"model_cfg": {"text_cfg": {)") + text + "}}}");
  };
  struct Row {
    const char *text, *whitespace, *lower, *canonical;
  };
  const Row rows[] = {
      {"A Dog.", "A Dog.", "a dog.", "a dog"},
      {" A_dog,  (the)\tEND\u00a0 of it! ", "A_dog, (the) END of it!", "a_dog, (the) end of it!",
       "a dog the end of it"},
      {"\u039f\u03a3 Caf\u00e9 \u201cquoted\u201d don\u2019t", "\u039f\u03a3 Caf\u00e9 \"quoted\" don't",
       "\u03bf\u03c2 caf\u00e9 \"quoted\" don't", "\u03bf\u03c2 caf\u00e9 quoted dont"},
      {"Tom &amp; Jerry &amp;lt;b&amp;gt;", "Tom & Jerry <b>", "tom & jerry <b>", "tom jerry b"},
      {"caf&eacute; P&EACUTE;REZ &notit; &#39;x&#x27; &ampx &#8217;", "caf\u00e9 P\u00c9REZ \u00acit; 'x' &x '",
       "caf\u00e9 p\u00e9rez \u00acit; 'x' &x '", "caf\u00e9 p\u00e9rez \u00acit x x"},
      {"<b>a &amp;amp; b</b>", "<b>a & b</b>", "<b>a & b</b>", "ba bb"},
      {"\ufb01ne \uff21\uff22\u3000\uff11 e\u0301", "fine AB 1 \u00e9", "fine ab 1 \u00e9", "fine ab 1 \u00e9"},
      {"a\ab\033[31mred\033[0m \ufeffz", "abred z", "abred z", "abred z"},
      {"&amp;amp;amp;quot; &szlig; &SZLIG; &LTRI; &copy2", "\" \u00df SS <RI; \u00a92", "\" \u00df ss <ri; \u00a92",
       "\u00df ss ri \u00a92"},
      {"a\r\nb\u2028c", "a b c", "a b c", "a b c"},
  };
  using tapecache::data::tokenizers::OpenClipText;
  const auto cleaned = [&](const char* config, const char* text) {
    configure(config);
    return OpenClipText::of_folder(folder.path()).value().cleaned(text);
  };
  for (const Row& row : rows) {
    BOOST_TEST_CONTEXT(json(row.text).dump()) {
      BOOST_TEST(cleaned(R"("hf_tokenizer_name": "x")", row.text) == row.whitespace);
      BOOST_TEST(cleaned("", row.text) == row.lower);
      BOOST_TEST(cleaned(R"("tokenizer_kwargs": {"clean": "canonicalize"})", row.text) == row.canonical);
      BOOST_TEST(cleaned(R"("tokenizer_kwargs": {"clean": "whitespace"})", row.text) == row.whitespace);
    }
  }
  // And then tokenised, tokens that stand in a text by themselves too.
  std::filesystem::copy(kReference / "gemma" / "tokenizer.json", folder / "tokenizer.json");
  const auto check = [&](const char* config, const char* text, const std::vector<std::int32_t>& expected) {
    configure(config);
    const Tokenizer tokenizer = Tokenizer::load(folder.path());
    BOOST_TEST(tokenizer.max_tokens().value() == 12);
    BOOST_TEST(tokenizer.encode(text).ids == expected, boost::test_tools::per_element());
  };
  const char* const kText = "The end, of  THE &amp; world</s> it [SEP]";
  const char* const kPlain = R"("hf_tokenizer_name": "x", "context_length": 12)";
  const char* const kCanonical =
      R"("hf_tokenizer_name": "x", "context_length": 12, "tokenizer_kwargs": {"clean": "canonicalize"})";
  check(kPlain, "A Dog.", {298, 0, 298, 0, 22, 14, 4});
  check(kPlain, kText, {298, 0, 15, 12, 298, 306, 11, 0, 321, 13, 298, 0});
  check(kCanonical, "A Dog.", {303, 508, 14});
  check(kCanonical, kText, {812, 12, 298, 306, 11, 321, 13, 812, 12, 604, 335, 19});
  // What else it may ask of a tokenizer is refused; of a folder that is transformers' too it counts for nothing.
  for (const auto& [config, word] : {std::pair(R"("tokenizer_kwargs": {"clean": "both"})", "tokenizer_kwargs.clean"),
                                     std::pair(R"("tokenizer_kwargs": {"strip_sep_token": true})", "strip_sep_token"),
                                     std::pair(R"("tokenizer_kwargs": {"reduction_mask": "simple"})", "reduction_mask"),
                                     std::pair(R"("tokenizer_mode": "clips")", "tokenizer_mode")}) {
    configure(config);
    BOOST_CHECK_EXCEPTION(Tokenizer::load(folder.path()), FileError, says({"open_clip_config.json", word}));
  }
  put(folder / "config.json", "{}");
  BOOST_TEST(!OpenClipText::of_folder(folder.path()).has_value());
  BOOST_TEST(!Tokenizer::load(folder.path()).max_tokens().has_value());
}

BOOST_AUTO_TEST_CASE(settings_of_a_folder) {
  const Folder folder;
  std::filesystem::copy(kReference / "gpt2" / "tokenizer.json", folder / "tokenizer.json");
  BOOST_TEST(Tokenizer::load(folder.path()).pad_id() == 0);
  put(folder / "special_tokens_map.json", R"({"pad_token": "b"})");
  BOOST_TEST(Tokenizer::load(folder.path()).pad_id() == Tokenizer::load(folder.path()).id_of("b").value());
  put(folder / "tokenizer_config.json",
      R"({"pad_token": {"content": "a"}, "padding_side": "left", "model_max_length": 5, "unheard_of": [1]})");
  const Tokenizer tokenizer = Tokenizer::load(folder.path());
  BOOST_TEST(tokenizer.pad_id() == tokenizer.id_of("a").value());
  BOOST_TEST(tokenizer.pads_left());
  BOOST_TEST(tokenizer.max_tokens().value() == 5);
  BOOST_TEST(tokenizer.encode("a b c d e f g h").ids.size() == 5u);

  // Of the text "a b c d e f g h" what is kept is its end.
  const std::vector<std::int32_t> whole = tokenizer.encode("a b c d e f g h", {.max_tokens = 100}).ids;
  put(folder / "tokenizer_config.json", R"({"truncation_side": "left", "model_max_length": 5})");
  for (const std::optional<std::int64_t> tokens : {std::optional<std::int64_t>(), std::optional<std::int64_t>(5)}) {
    BOOST_TEST(Tokenizer::load(folder.path()).encode("a b c d e f g h", {.max_tokens = tokens}).ids ==
                   std::vector(whole.end() - 5, whole.end()),
               boost::test_tools::per_element());
  }
  put(folder / "tokenizer_config.json", R"({"truncation_side": "left"})");
  BOOST_TEST(Tokenizer::load(folder.path()).encode("a b c d e f g h", {.max_tokens = 5}).ids ==
                 std::vector(whole.end() - 5, whole.end()),
             boost::test_tools::per_element());
  put(folder / "tokenizer_config.json", R"({"truncation_side": "Left"})");
  BOOST_CHECK_EXCEPTION(Tokenizer::load(folder.path()), FileError, says({"truncation_side", "left or right"}));
  put(folder / "tokenizer_config.json", R"({"max_len": 6})");
  BOOST_TEST(Tokenizer::load(folder.path()).max_tokens().value() == 6);

  put(folder / "tokenizer_config.json", R"({"model_max_length": 1000000000000000019884624838656})");
  BOOST_TEST(!Tokenizer::load(folder.path()).max_tokens().has_value());
  put(folder / "tokenizer_config.json", R"({"pad_token": "<no such>"})");
  BOOST_CHECK_EXCEPTION(Tokenizer::load(folder.path()), FileError, says({"'pad_token' is '<no such>'"}));
}

BOOST_AUTO_TEST_SUITE_END()
