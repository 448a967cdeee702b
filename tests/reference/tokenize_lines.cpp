// Writes the ids of each line, a JSON string of the standard input, that the tokenizer of a file makes; and the seconds
// that it took to standard error. What make_tokenizers.py compares with the `tokenizers` package.
#include <chrono>
#include <cstdio>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tapecache/data/tokenizers/tokenizer.h"

int main(int count, char** arguments) try {
  if (count != 2) {
    std::fprintf(stderr, "usage: %s TOKENIZER < LINES\n", arguments[0]);
    return 2;
  }
  const auto tokenizer = tapecache::data::Tokenizer::load(arguments[1]);
  std::vector<std::string> texts;
  for (std::string line; std::getline(std::cin, line);) texts.push_back(nlohmann::json::parse(line).get<std::string>());
  std::vector<tapecache::data::Tokenizer::Encoding> encodings;
  encodings.reserve(texts.size());
  const auto began = std::chrono::steady_clock::now();
  for (const std::string& text : texts) encodings.push_back(tokenizer.encode(text));
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - began;
  std::string row;
  for (const auto& encoding : encodings) {
    row.clear();
    for (const std::int32_t id : encoding.ids) row += std::to_string(id) + " ";
    std::puts(row.c_str());
  }
  std::fprintf(stderr, "%.6f\n", seconds.count());
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
