#include "command_embed.h"

#include <chrono>
#include <vector>

#include <fmt/format.h>

#include "progress.h"
#include "tapecache/core/error.h"
#include "tapecache/core/safetensors.h"
#include "tapecache/data/npy.h"

namespace tapecache::program {

namespace {

std::string prefix_of(const EmbedCommand& command, const TextModel& model) {
  if (command.prefix) return *command.prefix;
  if (!command.prompt) return model.prompt({});
  const auto& prompts = model.model().info().prompts;
  const auto found = prompts.find(*command.prompt);
  if (found == prompts.end()) {
    std::vector<std::string> names;
    names.reserve(prompts.size());
    for (const auto& [name, text] : prompts) names.push_back(name);
    throw ValueError(fmt::format("--prompt is '{}', {} has {}", *command.prompt, model.folder().string(),
                                 names.empty() ? "none" : fmt::format("'{}'", fmt::join(names, "', '"))));
  }
  return found->second;
}

}  // namespace

int run_embed(const EmbedCommand& command) {
  const std::string ending = command.out.extension().string();
  if (ending != ".npy" && ending != ".safetensors") {
    throw FileError(
        fmt::format("{}: found the ending '{}', expected .npy or .safetensors", command.out.string(), ending));
  }
  const std::vector<std::string> texts = read_texts(command.input, command.texts);
  const TextModel model(command.model.folder, command.model.text_model());
  EmbedOptions options = command.model.embed();
  options.prefix = prefix_of(command, model);
  const auto begin = std::chrono::steady_clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
  Tensor vectors;
  {
    Progress progress("embed", static_cast<std::int64_t>(texts.size()));
    options.observer = [&](std::int64_t done) {
      progress.update(done, fmt::format("{:.0f} texts/s", static_cast<double>(done) / seconds()));
    };
    vectors = model.embed(texts, options);
  }
  if (command.float16) vectors = vectors.to(DType::kFloat16);
  if (ending == ".npy") {
    data::write_npy(command.out, vectors);
  } else {
    write_safetensors(command.out, {.tensors = {{"embeddings", vectors}}, .metadata = {{"format", "pt"}}});
  }
  fmt::print(stderr, "{}: {} of {}, in {:.1f} s\n", command.out.string(), describe(vectors),
             model.model().info().architecture, seconds());
  return kDone;
}

}  // namespace tapecache::program
