#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "folder.h"
#include "pairs_file.h"
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

constexpr FuzzTarget kTextTargets[] = {
    {"pairs", read_any_pairs, pairs_seeds},
    {"word_tokenizer", tokenize_anything, tokenizer_seeds},
};

}  // namespace

std::span<const FuzzTarget> text_targets() { return kTextTargets; }

}  // namespace tapecache::testing
