#include "tapecache/data/tokenizers/tokenizer.h"

#include <algorithm>
#include <limits>
#include <mutex>
#include <utility>

#include <fmt/format.h>

#include "tapecache/core/error.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/data/tokenizers/model_files.h"
#include "tapecache/data/tokenizers/open_clip_text.h"
#include "tapecache/data/tokenizers/pipeline.h"
#include "tapecache/data/tokenizers/unicode.h"

namespace tapecache::data {

using tokenizers::Padding;
using tokenizers::Pipeline;
using tokenizers::Template;
using tokenizers::Truncation;
using tokenizers::Workspace;

struct [[gnu::visibility("hidden")]] Tokenizer::State {
  explicit State(const tokenizers::Field& root) : pipeline(root) {}

  Encoding encode(std::string_view first, const std::string_view* second, const EncodeOptions& options,
                  Workspace& workspace) const;

  std::unique_ptr<Workspace> take_workspace() const {
    const std::lock_guard lock(mutex);
    if (workspaces.empty()) return std::make_unique<Workspace>();
    std::unique_ptr<Workspace> taken = std::move(workspaces.back());
    workspaces.pop_back();
    return taken;
  }
  void give_back(std::unique_ptr<Workspace> workspace) const {
    const std::lock_guard lock(mutex);
    workspaces.push_back(std::move(workspace));
  }
  /// Calls `use(workspace)`.
  template <class Use>
  void with_workspace(Use use) const {
    std::unique_ptr<Workspace> workspace = take_workspace();
    use(*workspace);
    give_back(std::move(workspace));
  }

  Pipeline pipeline;
  std::optional<tokenizers::OpenClipText> cleaning;  // before all else
  std::int32_t pad_id = 0;
  bool pads_left = false, cuts_left = false;
  std::int64_t vocabulary_size = 0;

  mutable std::mutex mutex;
  mutable std::vector<std::unique_ptr<Workspace>> workspaces;  // that nobody uses
};

namespace {

void pad(Tokenizer::Encoding& encoding, std::size_t length, const Padding& padding) {
  if (encoding.ids.size() >= length) return;
  const std::size_t missing = length - encoding.ids.size();
  const auto fill = [&](std::vector<std::int32_t>& values, std::int32_t value) {
    values.insert(padding.left ? values.begin() : values.end(), missing, value);
  };
  fill(encoding.ids, padding.id);
  fill(encoding.types, padding.type);
}

void pad_alike(std::span<Tokenizer::Encoding> encodings, const Padding& padding) {
  std::size_t longest = 0;
  for (const Tokenizer::Encoding& encoding : encodings) longest = std::max(longest, encoding.ids.size());
  for (Tokenizer::Encoding& encoding : encodings) pad(encoding, padding.length_for(longest), padding);
}

bool lower_cases(const tokenizers::Field& normalizer) {
  const std::string& type = normalizer.at("type").string();
  if (type != "Sequence") return type == "Lowercase";
  const tokenizers::Field parts = normalizer.at("normalizers");
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].at("type").string() == "Lowercase") return true;
  }
  return false;
}

/// As sentence-transformers has a tokenizer do it.
void lower_case_first(tokenizers::JsonFile& file) {
  using tokenizers::Json;
  const auto found = file.root().find("normalizer");
  if (found && lower_cases(*found)) return;
  Json parts = Json::array({Json::object({{"type", Json::of("Lowercase")}})});
  if (found) parts.items.push_back(found->json());
  file.set("normalizer", Json::object({{"type", Json::of("Sequence")}, {"normalizers", std::move(parts)}}));
}

}  // namespace

Tokenizer::Encoding Tokenizer::State::encode(std::string_view first, const std::string_view* second,
                                             const EncodeOptions& options, Workspace& workspace) const {
  std::optional<Truncation> truncation = pipeline.truncation;
  if (options.max_tokens) {
    if (!truncation) truncation.emplace(Truncation{.left = cuts_left});
    truncation->max_tokens = *options.max_tokens;
  }
  const auto encode_text = [&](std::string_view text, std::size_t enough, std::vector<std::int32_t>& ids) {
    if (!cleaning) return pipeline.encode(text, enough, workspace, ids);
    pipeline.encode(cleaning->cleaned(tokenizers::well_formed(text)), enough, workspace, ids);
  };
  // What is cut off the end need not be made; of a pair, what is cut depends on both texts.
  constexpr std::size_t kAll = std::numeric_limits<std::size_t>::max();
  const bool may_stop = truncation && !second && !truncation->left && truncation->max_tokens >= 0 &&
                        truncation->strategy != Truncation::Strategy::kOnlySecond;
  encode_text(first, may_stop ? static_cast<std::size_t>(truncation->max_tokens) : kAll, workspace.first);
  if (second) encode_text(*second, kAll, workspace.second);

  const auto& parts = second ? pipeline.special_tokens().pair : pipeline.special_tokens().single;
  const std::size_t special = options.special_tokens ? special_tokens_of(parts) : 0;
  if (truncation) {
    if (truncation->max_tokens < static_cast<std::int64_t>(special)) {
      throw ValueError(
          fmt::format("tokenizer: at most {} tokens, but {} are special", truncation->max_tokens, special));
    }
    truncate(*truncation, static_cast<std::size_t>(truncation->max_tokens) - special, workspace.first,
             second ? &workspace.second : nullptr);
  }
  Encoding encoding;
  const std::size_t total = workspace.first.size() + (second ? workspace.second.size() : 0) + special;
  encoding.ids.reserve(total);
  encoding.types.reserve(total);
  std::span<const std::int32_t> before;  // the text's ids, where one ends here
  const auto is_there_already = [&](const Template::Part& part) {
    return pipeline.special_tokens().end_once && !before.empty() && part.ids == std::vector{before.back()};
  };
  for (const Template::Part& part : parts) {
    if (part.kind == Template::Kind::kSpecial && (!options.special_tokens || is_there_already(part))) continue;
    const std::vector<std::int32_t>& ids = part.kind == Template::Kind::kFirst    ? workspace.first
                                           : part.kind == Template::Kind::kSecond ? workspace.second
                                                                                  : part.ids;
    before = part.kind == Template::Kind::kSpecial ? std::span<const std::int32_t>() : ids;
    encoding.ids.insert(encoding.ids.end(), ids.begin(), ids.end());
    encoding.types.resize(encoding.ids.size(), part.type);
  }
  return encoding;
}

Tokenizer::Tokenizer(std::unique_ptr<const State> state) : state_(std::move(state)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::load(const std::filesystem::path& folder_or_file, const TokenizerOptions& options) {
  const std::unique_ptr<tokenizers::JsonFile> file = tokenizers::find_tokenizer(folder_or_file, options.model);
  if (options.lower_case) lower_case_first(*file);
  auto state = std::make_unique<State>(file->root());
  Pipeline& pipeline = state->pipeline;
  state->vocabulary_size = pipeline.vocabulary().end();
  // Files may name other ids for special tokens than their vocabulary does.
  for (const auto* const parts : {&pipeline.special_tokens().single, &pipeline.special_tokens().pair}) {
    for (const Template::Part& part : *parts) {
      for (const std::int32_t id : part.ids)
        state->vocabulary_size = std::max<std::int64_t>(state->vocabulary_size, id + 1);
    }
  }
  if (pipeline.padding) {
    state->pad_id = pipeline.padding->id;
    state->vocabulary_size = std::max<std::int64_t>(state->vocabulary_size, state->pad_id + 1);
    state->pads_left = pipeline.padding->left;
  }
  if (folder_or_file != file->path()) {
    state->cleaning = tokenizers::OpenClipText::of_folder(folder_or_file);
    if (state->cleaning) {
      if (!pipeline.truncation) pipeline.truncation.emplace();
      pipeline.truncation->max_tokens = state->cleaning->max_tokens();
    }
    const tokenizers::Settings settings = tokenizers::read_settings(folder_or_file);
    if (!pipeline.truncation && settings.max_tokens) {
      pipeline.truncation.emplace();
      pipeline.truncation->max_tokens = *settings.max_tokens;
    }
    state->cuts_left = settings.cuts_left.value_or(false);
    if (pipeline.truncation && settings.cuts_left) pipeline.truncation->left = state->cuts_left;
    if (!pipeline.padding) {
      const auto named = settings.pad_token ? pipeline.vocabulary().find(*settings.pad_token) : tokenizers::kNone;
      if (settings.pad_token && named == tokenizers::kNone) {
        throw FileError(fmt::format("{}: 'pad_token' is '{}', which the tokenizer does not have",
                                    folder_or_file.string(), *settings.pad_token));
      }
      state->pad_id = std::max(named, 0);
      state->pads_left = settings.pads_left.value_or(false);
    }
  }
  if (!pipeline.padding && state->pad_id == 0) {
    for (const char* const token : {"[PAD]", "<pad>"}) {
      state->pad_id = std::max(state->pad_id, pipeline.vocabulary().find(token));
    }
  }
  return Tokenizer(std::move(state));
}

Tokenizer::Encoding Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  Encoding encoding;
  state_->with_workspace([&](Workspace& workspace) { encoding = state_->encode(text, nullptr, options, workspace); });
  if (options.pad && state_->pipeline.padding) pad_alike({&encoding, 1}, *state_->pipeline.padding);
  return encoding;
}

Tokenizer::Encoding Tokenizer::encode_pair(std::string_view first, std::string_view second,
                                           const EncodeOptions& options) const {
  Encoding encoding;
  state_->with_workspace([&](Workspace& workspace) { encoding = state_->encode(first, &second, options, workspace); });
  if (options.pad && state_->pipeline.padding) pad_alike({&encoding, 1}, *state_->pipeline.padding);
  return encoding;
}

std::vector<Tokenizer::Encoding> Tokenizer::encode_batch(std::span<const std::string> texts,
                                                         const EncodeOptions& options) const {
  std::vector<Encoding> encodings(texts.size());
  constexpr std::int64_t kBlock = 16;
  parallel_for(static_cast<std::int64_t>(texts.size()), kBlock, [&](std::int64_t begin, std::int64_t end) {
    state_->with_workspace([&](Workspace& workspace) {
      for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
        encodings[i] = state_->encode(texts[i], nullptr, options, workspace);
      }
    });
  });
  if (options.pad && state_->pipeline.padding) pad_alike(encodings, *state_->pipeline.padding);
  return encodings;
}

std::int64_t Tokenizer::vocabulary_size() const { return state_->vocabulary_size; }
std::int32_t Tokenizer::pad_id() const { return state_->pad_id; }
bool Tokenizer::pads_left() const { return state_->pads_left; }

std::optional<std::int32_t> Tokenizer::id_of(std::string_view token) const {
  const std::int32_t id = state_->pipeline.vocabulary().find(token);
  return id == tokenizers::kNone ? std::nullopt : std::optional(id);
}

std::string Tokenizer::token(std::int32_t id) const {
  const auto token = state_->pipeline.vocabulary().token(id);
  if (!token) {
    throw ValueError(
        fmt::format("tokenizer: no token has the id {}; the vocabulary ends at {}", id, vocabulary_size()));
  }
  return std::string(*token);
}

std::optional<std::int64_t> Tokenizer::max_tokens() const {
  const auto& truncation = state_->pipeline.truncation;
  return truncation ? std::optional(truncation->max_tokens) : std::nullopt;
}

}  // namespace tapecache::data
