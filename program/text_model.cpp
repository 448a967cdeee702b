#include "text_model.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "tapecache/autograd/modes.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/error.h"
#include "tapecache/ops/normalize.h"

namespace tapecache::program {

namespace {

models::Pretrained load(const std::filesystem::path& folder, const std::filesystem::path& base,
                        const TextModelOptions& options) {
  models::PretrainedOptions pretrained = pretrained_options(folder);
  pretrained.dropout = options.dropout;
  pretrained.checkpoint = options.checkpoint;
  pretrained.seed = options.seed;
  models::Pretrained model = models::load_pretrained(base, pretrained);
  const models::Pretrained::Info& info = model.info();
  if (!model.encodes_texts()) {
    throw FileError(fmt::format("{}: the model ({}) encodes no texts", folder.string(), info.architecture));
  }
  if (options.compares && info.similarity != "cosine" && info.similarity != "dot") {
    throw FileError(
        fmt::format("{}: its similarity is '{}', expected cosine or dot", folder.string(), info.similarity));
  }
  return model;
}

/// For a message, on its one line.
std::string shortened(std::string text) {
  constexpr std::size_t kMost = 60;
  if (text.size() > kMost) {
    std::size_t end = kMost;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // not within a character of UTF-8
    text = text.substr(0, end) + "...";
  }
  std::ranges::replace_if(
      text, [](unsigned char c) { return c < 0x20; }, ' ');
  return text;
}

/// How many of these texts are tokenized at a time, so that any number of them can be embedded.
std::size_t window_of(std::span<const std::string> texts) {
  constexpr std::size_t kTexts = 65536, kBytes = std::size_t{64} << 20;
  std::size_t count = 0, bytes = 0;
  while (count < std::min(texts.size(), kTexts) && bytes < kBytes) bytes += texts[count++].size();
  return count;
}

}  // namespace

const std::filesystem::path& model_folder(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return path;
  throw FileError(fmt::format("{}: no such folder, expected a model's", path.string()));
}

std::filesystem::path base_folder(const std::filesystem::path& path, const std::filesystem::path& base) {
  if (!models::Lora::is_in(model_folder(path))) {
    if (base.empty()) return path;
    throw FileError(fmt::format("{}: has no adapter_config.json, expected an adapter's folder beside --base {}",
                                path.string(), base.string()));
  }
  if (!base.empty()) return model_folder(base);
  const std::filesystem::path named = models::Lora::base_of(path);
  std::error_code error;
  for (const std::filesystem::path& folder : {named, path / named}) {
    if (!named.empty() && std::filesystem::is_directory(folder, error)) return folder;
  }
  throw FileError(fmt::format("{}: its base model is '{}', which is no folder here; --base DIR says where it is",
                              (path / "adapter_config.json").string(), named.string()));
}

models::PretrainedOptions pretrained_options(const std::filesystem::path& folder) {
  models::PretrainedOptions options;
  if (models::Lora::is_in(folder)) options.files_from = folder;
  return options;
}

TextWithoutTokens::TextWithoutTokens(const std::string& text)
    : ValueError(fmt::format("the text '{}' has no tokens, expected at least one", shortened(text))), text_(text) {}

TextModel::TextModel(const std::filesystem::path& folder, const TextModelOptions& options)
    : folder_(model_folder(folder)),
      base_(base_folder(folder, options.base)),
      model_(load(folder_, base_, options)),
      tokenizer_(
          data::Tokenizer::load(model_.tokenizer_folder(), {.lower_case = model_.info().lower_case, .model = base_})) {
  if (models::Lora::is_in(folder)) {
    adapter_ = models::load_lora(folder, model_);
    if (options.merge) adapter_->merge();
  }
  const models::Pretrained::Info& info = model_.info();
  if (tokenizer_.vocabulary_size() > info.vocabulary) {
    throw FileError(fmt::format("{}: its tokenizer has {} ids, its model's embedding table {} rows", folder.string(),
                                tokenizer_.vocabulary_size(), info.vocabulary));
  }
  max_tokens_ = options.max_tokens.value_or(info.max_tokens);
  if (max_tokens_ < 1 || max_tokens_ > info.max_tokens) {
    throw ValueError(fmt::format("--max-tokens is {}, expected 1 to {}, as many as {} takes", max_tokens_,
                                 info.max_tokens, folder.string()));
  }
}

std::string TextModel::prompt(std::initializer_list<std::string_view> names) const {
  const models::Pretrained::Info& info = model_.info();
  for (const std::string_view name : names) {
    if (const auto found = info.prompts.find(std::string(name)); found != info.prompts.end()) return found->second;
  }
  return info.default_prompt ? info.prompts.at(*info.default_prompt) : "";
}

std::vector<std::vector<std::int32_t>> TextModel::ids(std::span<const std::string> texts,
                                                      std::string_view prefix) const {
  const std::span<const std::string> given = texts;
  std::vector<std::string> whole;
  if (!prefix.empty()) {
    for (const std::string& text : texts) whole.push_back(fmt::format("{}{}", prefix, text));
    texts = whole;
  }
  std::vector<std::vector<std::int32_t>> ids;
  for (data::Tokenizer::Encoding& encoding : tokenizer_.encode_batch(texts, {.max_tokens = max_tokens_})) {
    if (encoding.ids.empty()) throw TextWithoutTokens(given[ids.size()]);
    ids.push_back(std::move(encoding.ids));
  }
  return ids;
}

models::TokenBatch TextModel::padded(std::span<const std::vector<std::int32_t>> ids, std::int64_t min_tokens) const {
  return models::TokenBatch::pad(ids, tokenizer_.pad_id(), min_tokens);
}

Variable TextModel::representations(const models::TokenBatch& tokens) const {
  const Variable encoded = model_.encode(tokens);
  return model_.info().normalized || model_.info().similarity != "cosine" ? encoded : ops::l2_normalize(encoded);
}

Tensor TextModel::comparable(const Tensor& embeddings) const {
  if (model_.info().similarity != "cosine") return embeddings;
  const NoRecording no_tape;
  return ops::l2_normalize(embeddings).value();
}

Tensor TextModel::embed(std::span<const std::string> texts, const EmbedOptions& options) const {
  const WithoutDropout without(model_);
  const NoRecording no_tape;
  const Autocast precision(options.autocast);
  const std::int64_t count = static_cast<std::int64_t>(texts.size()), width = model_.info().width;
  Tensor result = Tensor::empty({count, width});
  float* rows_of_result = result.mutable_data<float>();
  std::int64_t done = 0;
  for (std::size_t begin = 0, size = 0; begin < texts.size(); begin += size) {
    size = window_of(texts.subspan(begin));
    std::vector<std::vector<std::int32_t>> tokens = ids(texts.subspan(begin, size), options.prefix);
    std::vector<std::size_t> order(size);
    std::iota(order.begin(), order.end(), std::size_t{0});
    // The longest first: where memory does not suffice, that shows at once.
    std::ranges::stable_sort(order, std::greater(), [&](std::size_t i) { return tokens[i].size(); });
    for (std::size_t first = 0; first < size;) {
      const auto longest = static_cast<std::int64_t>(tokens[order[first]].size());
      const auto rows = static_cast<std::size_t>(std::max<std::int64_t>(1, options.batch_tokens / longest));
      const std::span some = std::span(order).subspan(first, std::min(rows, size - first));
      std::vector<std::vector<std::int32_t>> batch;
      for (const std::size_t i : some) batch.push_back(std::move(tokens[i]));
      const Tensor vectors = model_.encode(padded(batch)).value().to(Device::cpu()).to(DType::kFloat32);
      for (std::size_t i = 0; i < some.size(); ++i) {
        std::memcpy(rows_of_result + static_cast<std::int64_t>(begin + some[i]) * width,
                    vectors.data<float>() + static_cast<std::int64_t>(i) * width,
                    static_cast<std::size_t>(width) * sizeof(float));
      }
      first += some.size();
      done += static_cast<std::int64_t>(some.size());
      if (options.observer) options.observer(done);
    }
  }
  return result;
}

}  // namespace tapecache::program
