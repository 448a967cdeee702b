// Tokenizers of every kind against what the `tokenizers` package makes of lines in many scripts.
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <nlohmann/json.hpp>

#include "checks.h"
#include "tapecache/core/error.h"
#include "tapecache/core/parallel_for.h"
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

  put(folder / "tokenizer_config.json", R"({"model_max_length": 1000000000000000019884624838656})");
  BOOST_TEST(!Tokenizer::load(folder.path()).max_tokens().has_value());
  put(folder / "tokenizer_config.json", R"({"pad_token": "<no such>"})");
  BOOST_CHECK_EXCEPTION(Tokenizer::load(folder.path()), FileError, says({"'pad_token' is '<no such>'"}));
}

BOOST_AUTO_TEST_SUITE_END()
