#include "command_embed.h"

#include <chrono>
#include <vector>

#include <fmt/format.h>

#include "image_files.h"
#include "progress.h"
#include "tapecache/core/error.h"
#include "tapecache/core/files.h"
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

/// What a folder holds, in the order of the vectors: for `tapecache search --texts`.
void write_list(const EmbedCommand& command, const std::vector<ImageFile>& files) {
  if (!std::filesystem::is_directory(command.images)) return;
  std::string list;
  for (const ImageFile& file : files) list += file.path.string() + "\n";
  std::filesystem::path path = command.out;
  write_file_atomically(path.replace_extension(".txt"), list);
}

}  // namespace

int run_embed(const EmbedCommand& command) {
  const std::string ending = command.out.extension().string();
  if (ending != ".npy" && ending != ".safetensors") {
    throw FileError(
        fmt::format("{}: found the ending '{}', expected .npy or .safetensors", command.out.string(), ending));
  }
  if (command.input.empty() == command.images.empty()) {
    throw ValueError(fmt::format("found {}, expected --input TEXTS or --images FOLDER-OR-FILE",
                                 command.input.empty() ? "neither" : "both"));
  }
  EmbedOptions options = command.model.embed();
  const auto begin = std::chrono::steady_clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
  std::string architecture;
  const auto embed = [&](std::size_t count, const char* what, auto call) {
    Progress progress("embed", static_cast<std::int64_t>(count));
    options.observer = [&](std::int64_t done) {
      progress.update(done, fmt::format("{:.0f} {}/s", static_cast<double>(done) / seconds(), what));
    };
    return call();
  };
  Tensor vectors;
  if (command.images.empty()) {
    const std::vector<std::string> texts = read_texts(command.input, command.texts);
    const TextModel model(command.model.folder, command.model.text_model());
    architecture = model.model().info().architecture;
    options.prefix = prefix_of(command, model);
    vectors = embed(texts.size(), "texts", [&] { return model.embed(texts, options); });
  } else {
    // Without a tokenizer, which encoders of images alone have none of.
    const std::vector<ImageFile> files = list_images(command.images, command.texts);
    const std::filesystem::path base = base_folder(command.model.folder, command.model.base);
    const models::Pretrained model = models::load_pretrained(base, pretrained_options(command.model.folder));
    if (models::Lora::is_in(command.model.folder)) models::load_lora(command.model.folder, model).merge();
    const ImageEncoder images(model, command.model.images);
    architecture = model.info().architecture;
    vectors = embed(files.size(), "images", [&] { return images.embed(files, options); });
    write_list(command, files);
  }
  if (command.float16) vectors = vectors.to(DType::kFloat16);
  if (ending == ".npy") {
    data::write_npy(command.out, vectors);
  } else {
    write_safetensors(command.out, {.tensors = {{"embeddings", vectors}}, .metadata = {{"format", "pt"}}});
  }
  fmt::print(stderr, "{}: {} of {}, in {:.1f} s\n", command.out.string(), describe(vectors), architecture, seconds());
  return kDone;
}

}  // namespace tapecache::program
