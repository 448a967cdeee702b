#include "command_embed.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <system_error>
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
  // As of texts that are searched among, which is what most vectors are for.
  if (!command.prompt) return prefixes_for(model, {}, command.prefix).passage;
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

/// Where the paths of a folder's images are listed, in the order of the vectors: for `tapecache search --texts`.
std::filesystem::path list_beside(std::filesystem::path vectors) { return vectors.replace_extension(".txt"); }

/// Throws FileError where a file of the list's name is there that is no such list of this folder: that of an earlier
/// call, beside its vectors.
void require_no_other_list(const EmbedCommand& command) {
  const std::filesystem::path path = list_beside(command.out);
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return;
  const std::filesystem::path folder =
      command.images.filename().empty() ? command.images.parent_path() : command.images;  // of "FOLDER/"
  std::ifstream file(path, std::ios::binary);
  std::vector<std::filesystem::path> lines;
  for (std::string line; std::getline(file, line);) lines.emplace_back(line);
  const bool is_list = std::filesystem::exists(command.out, error) && !lines.empty() && std::ranges::is_sorted(lines) &&
                       std::ranges::all_of(lines, [&](const std::filesystem::path& line) {
                         return is_image(line) && std::ranges::mismatch(folder, line).in1 == folder.end();
                       });
  if (is_list) return;
  throw FileError(
      fmt::format("{}: is there already, and would be replaced by the list of the images; expected another "
                  "name for --out, or no such file",
                  path.string()));
}

void write_list(const EmbedCommand& command, const std::vector<ImageFile>& files) {
  std::string list;
  for (const ImageFile& file : files) list += file.path.string() + "\n";
  write_file_atomically(list_beside(command.out), list);
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
    TextModelOptions of_texts = command.model.text_model();
    of_texts.compares = false;
    const TextModel model(command.model.folder, of_texts);
    std::error_code error;
    if (model.model().encodes_images() && is_image(texts.front()) &&
        std::filesystem::is_regular_file(command.input.parent_path() / texts.front(), error)) {
      throw text_error(
          command.input, command.texts, texts.front(),
          "found the path of an image, expected a text; --images in the place of --input takes the images");
    }
    architecture = model.model().info().architecture;
    options.prefix = prefix_of(command, model);
    if (!options.prefix.empty()) fmt::print(stderr, "prefix '{}' for each text\n", options.prefix);
    try {
      vectors = embed(texts.size(), "texts", [&] { return model.embed(texts, options); });
    } catch (const TextWithoutTokens& e) {
      throw text_error(command.input, command.texts, e.text(), e.what());
    }
  } else {
    // Without a tokenizer, which encoders of images alone have none of.
    std::error_code error;
    const bool is_folder = std::filesystem::is_directory(command.images, error);
    if (is_folder) require_no_other_list(command);
    const std::vector<ImageFile> files = list_images(command.images, command.texts);
    const std::filesystem::path base = base_folder(command.model.folder, command.model.base);
    const models::Pretrained model = models::load_pretrained(base, pretrained_options(command.model.folder));
    if (models::Lora::is_in(command.model.folder)) models::load_lora(command.model.folder, model).merge();
    const ImageEncoder images(model, command.model.images);
    architecture = model.info().architecture;
    vectors = embed(files.size(), "images", [&] { return images.embed(files, options); });
    if (is_folder) write_list(command, files);
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
