#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <exception>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tapecache/autograd/parameter_settings.h"
#include "tapecache/core/descriptor.h"
#include "tapecache/core/error.h"
#include "tapecache/core/files.h"
#include "tapecache/models/linear_adapter.h"
#include "tapecache/models/pretrained_parts.h"

namespace tapecache::models {

namespace detail {

namespace {

using std::filesystem::path;

/// What a folder holds, as far as it can be read. The iterators of std::filesystem end the program where they find no
/// memory.
std::vector<path> entries_of(const path& folder, std::error_code& error) {
  struct Close {
    void operator()(DIR* entries) const { ::closedir(entries); }
  };
  const std::unique_ptr<DIR, Close> entries(::opendir(folder.c_str()));
  if (!entries) {
    error.assign(errno, std::generic_category());
    return {};
  }
  std::vector<path> found;
  for (;;) {
    errno = 0;
    const dirent* const entry = ::readdir(entries.get());
    if (!entry) {
      if (errno != 0) error.assign(errno, std::generic_category());
      return found;
    }
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") found.push_back(folder / name);
  }
}

bool is_folder(const path& entry) {
  std::error_code error;
  return std::filesystem::is_directory(std::filesystem::symlink_status(entry, error));
}

void add_files(const path& folder, std::vector<path>& files) {
  std::error_code error;
  const std::vector<path> entries = entries_of(folder, error);
  if (error) throw FileError(fmt::format("{}: cannot be read: {}", folder.string(), error.message()));
  for (const path& entry : entries) {
    if (is_folder(entry)) add_files(entry, files);
    else files.push_back(entry);
  }
}

/// As far as that is allowed. What links point to stays.
void remove_tree(const path& folder) {
  std::error_code ignored;
  for (const path& entry : entries_of(folder, ignored)) {
    if (is_folder(entry)) remove_tree(entry);
    else std::filesystem::remove(entry, ignored);
  }
  std::filesystem::remove(folder, ignored);
}

/// A new folder beside the one that is to be written, `NAME.tmp-` and 16 hexadecimal digits, removed with all it holds
/// unless it was given that one's place. It is locked for as long as it is written to: one of a process that was killed
/// is not, and the next writer of that name removes it.
class Staging {
 public:
  explicit Staging(const path& final_place) {
    make(final_place.parent_path());
    remove_left(final_place);
    // Another writer may take a folder for one that was left, before it is locked.
    for (int attempts = 0; attempts < 8; ++attempts) {
      path_ = final_place;
      path_ += fmt::format("{}{:08x}{:08x}", kMark, std::random_device()(), std::random_device()());
      make(path_);
      if (lock(path_, lock_)) return;
    }
    throw FileError(fmt::format("{}: cannot be kept from other writers", path_.string()));
  }
  ~Staging() {
    try {
      remove_tree(path_);
    } catch (const std::exception&) {  // the next writer removes it
    }
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  static void make(const path& folder) {
    if (folder.empty()) return;
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (error) throw FileError(fmt::format("{}: cannot be made: {}", folder.string(), error.message()));
  }
  const path& folder() const { return path_; }

 private:
  static constexpr std::string_view kMark = ".tmp-";
  static constexpr std::size_t kDigits = 16;

  /// Whether the folder is there, and no other process has it locked. A file system that cannot lock lets all pass.
  static bool lock(const path& folder, tapecache::detail::Descriptor& into) {
    into.reset(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!into || (::flock(into.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)) return false;
    std::error_code error;
    return std::filesystem::exists(folder, error);
  }

  static void remove_left(const path& final_place) {
    const std::string stem = final_place.filename().string().append(kMark);
    std::error_code ignored;
    const path parent = final_place.has_parent_path() ? final_place.parent_path() : ".";
    for (const path& entry : entries_of(parent, ignored)) {
      const std::string name = entry.filename().string();
      const bool is_ours = name.size() == stem.size() + kDigits && name.starts_with(stem) &&
                           name.find_first_not_of("0123456789abcdef", stem.size()) == name.npos;
      tapecache::detail::Descriptor held;
      if (is_ours && lock(entry, held)) remove_tree(entry);
    }
  }

  path path_;
  tapecache::detail::Descriptor lock_;
};

void copy_contents(const path& from, const path& to) {
  constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 30;
  write_file_atomically(to, tapecache::detail::read_small_file(from, kMostBytes));
}

/// The configuration as it was read, but for what the saved weights are.
std::string saved_config(const PretrainedParts& parts) {
  Json config = parts.config;
  if (parts.saved_class.empty()) return config.dump();
  Json classes = Json::array();
  classes.items.push_back(Json::of(parts.saved_class));
  config.set("architectures", std::move(classes));
  const std::string_view dtype = name(parts.parameters.front().value().dtype());
  // As versions before 5 call it, for them.
  if (config.find("torch_dtype")) config.set("torch_dtype", Json::of(dtype));
  else config.set("dtype", Json::of(dtype));
  return config.dump();
}

/// The files of one folder as they are staged.
class Writer {
 public:
  Writer(const PretrainedParts& parts, const path& staging) : parts_(parts), staging_(staging) {}

  void write() {
    for (const auto& [file, text] : parts_.carried) write_file_atomically(staging_ / file, text);
    copy_others(parts_.transformer);
    write_file_atomically(folder_within(staging_, parts_.transformer) / parts_.config_file, saved_config(parts_));
    write_all_weights([](const path&) { return true; });
  }

  /// What stands beside the adapter of a transformer, which takes the transformer's place: at the root.
  void write_beside_adapter() {
    for (const auto& [file, text] : parts_.carried) {
      const bool is_of_transformer = !parts_.transformer.empty() && is_within(file, parts_.transformer);
      write_file_atomically(staging_ / (is_of_transformer ? file.lexically_relative(parts_.transformer) : file),
                            file == path("modules.json") ? modules_of_adapter(text) : text);
    }
    // Of OpenCLIP's the folder's configuration says how they are used.
    if (parts_.config_file == "config.json") copy_others({});
    write_all_weights([](const path& module) { return !module.empty(); });
  }

 private:
  static bool is_within(const path& file, const path& folder) {
    return *file.lexically_relative(folder).begin() != path("..");
  }

  std::string modules_of_adapter(const std::string& text) const {
    if (parts_.transformer.empty()) return text;
    Json modules = tapecache::detail::parse_json("modules.json", text);
    for (Json& module : modules.items) {
      if (module.find("path")->text == parts_.transformer) module.set("path", Json::of(""));
    }
    return modules.dump();
  }

  /// Of those modules that `which` wants; the transformer's path is empty.
  template <class Which>
  void write_all_weights(const Which& which) const {
    std::map<path, SafetensorsFile> files;
    std::map<path, std::vector<Parameter>> parameters;
    for (const Parameter& p : parts_.parameters) {
      const path module = parts_.module_of(p.name());
      if (!which(module)) continue;
      files[module].tensors.emplace(name_within(module, p.name()), p.value());
      parameters[module].push_back(p);
    }
    for (const Buffer& b : parts_.buffers) {
      if (which({})) files[{}].tensors.emplace(b.name, b.value);
    }
    for (auto& [module, file] : files) write_weights(module, std::move(file), parameters[module]);
  }

  static std::string name_within(const path& module, const std::string& name) {
    return module.empty() ? name : name.substr(module.string().size() + 1);
  }

  void copy_others(const path& within) const {
    std::error_code error;
    if (!std::filesystem::is_directory(parts_.folder, error)) {
      throw FileError(
          fmt::format("{}: is missing, expected the folder that the model came from, whose tokenizer is to "
                      "be copied",
                      parts_.folder.string()));
    }
    copy(OtherFiles::of_tokenizer(), parts_.tokenizer, within);
    copy(OtherFiles::of_processor(), parts_.processor, within);
  }

  void copy(const OtherFiles& files, const path& from, const path& within) const {
    std::error_code error;
    // Beside modules.json, where they do not stand with the transformer.
    const path to = from == parts_.folder ? path() : within;
    for (const auto& names : {files.needed, files.others}) {
      for (const char* file : names) {
        if (std::filesystem::exists(from / file, error)) {
          copy_contents(from / file, folder_within(staging_, to) / file);
        }
      }
    }
  }

  void write_weights(const path& module, SafetensorsFile file, std::span<const Parameter> parameters) const {
    file.metadata.emplace("format", "pt");  // without which other libraries refuse it
    if (module.empty() && parts_.to_files) {
      file.tensors = parts_.to_files(file.tensors);
    }
    write_settings(file.metadata, parameters, [&](const Parameter& p) { return name_within(module, p.name()); });
    const path where =
        module.empty() ? parts_.transformer / (parts_.weights + ".safetensors") : module / "model.safetensors";
    write_safetensors(staging_ / where, file);
  }

  const PretrainedParts& parts_;
  const path& staging_;
};

/// Puts what was staged in the place of what a folder has. While the parts of two models are there its configuration is
/// not, so that neither library nor ours takes it for a whole one. By then there is nothing left that needs memory.
void replace(const path& staging, const path& folder, const path& config) {
  struct Move {
    path from, to;
  };
  std::vector<path> files, removed;
  add_files(staging, files);
  std::vector<Move> moves;
  for (const path& from : files) {
    Move& move = moves.emplace_back(Move{from, folder / from.lexically_relative(staging)});
    Staging::make(move.to.parent_path());
  }
  const path last = staging / config;
  std::partition(moves.begin(), moves.end(), [&](const Move& move) { return move.from != last; });
  for (const char* old : {"config.json", "open_clip_config.json", "adapter_config.json", "modules.json",
                          "model.safetensors.index.json", "open_clip_model.safetensors.index.json"}) {
    removed.push_back(folder / old);
  }
  std::error_code error;
  for (const path& old : removed) {
    std::filesystem::remove(old, error);
    if (error) throw FileError(fmt::format("{}: cannot be replaced: {}", old.string(), error.message()));
  }
  for (const auto& [from, to] : moves) {
    std::filesystem::rename(from, to, error);
    if (error) throw FileError(fmt::format("{}: cannot be put in place: {}", to.string(), error.message()));
  }
}

}  // namespace

OtherFiles OtherFiles::of_tokenizer() {
  static constexpr std::array kNeeded{"tokenizer.json",          "vocab.txt",    "vocab.json",
                                      "sentencepiece.bpe.model", "spiece.model", "tokenizer.model"};
  static constexpr std::array kOthers{"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                                      "merges.txt"};
  return {kNeeded, kOthers};
}

OtherFiles OtherFiles::of_processor() {
  static constexpr std::array kNeeded{"preprocessor_config.json", "processor_config.json"};
  return {kNeeded, {}};
}

bool OtherFiles::are_in(const path& folder) const {
  std::error_code error;
  return std::ranges::any_of(needed, [&](const char* file) { return std::filesystem::exists(folder / file, error); });
}

}  // namespace detail

namespace {

/// Calls `write(staging)` for a new folder, which then takes the place of `folder`, the file `config` last.
template <class Write>
void write_folder(const std::filesystem::path& folder, const std::filesystem::path& config, const Write& write) try {
  std::error_code error;
  // A symbolic link is followed, and stays.
  std::filesystem::path target = std::filesystem::weakly_canonical(folder);
  if (!target.has_filename()) target = target.parent_path();
  const detail::Staging staging(target);
  write(staging.folder());
  std::filesystem::rename(staging.folder(), target, error);  // where there is none, or an empty one
  if (error) detail::replace(staging.folder(), target, config);
} catch (const std::filesystem::filesystem_error& e) {
  throw FileError(fmt::format("{}: cannot be written: {}", folder.string(), e.what()));
}

}  // namespace

void save_pretrained(const std::filesystem::path& folder, const Pretrained& model) {
  const detail::PretrainedParts& parts = *model.parts_;
  for (const auto& layer : model.builder().linear_layers()) {
    if (!layer->active()) continue;
    throw ValueError(fmt::format(
        "save_pretrained: layer '{}' has an adapter, expected one that is merged, or save_lora", layer->layer));
  }
  write_folder(folder, parts.transformer / parts.config_file,
               [&](const std::filesystem::path& staging) { detail::Writer(parts, staging).write(); });
}

void save_lora(const std::filesystem::path& folder, const Lora& lora, const Pretrained& model) {
  const detail::PretrainedParts& parts = *model.parts_;
  write_folder(folder, "adapter_config.json", [&](const std::filesystem::path& staging) {
    const std::filesystem::path base =
        std::filesystem::absolute(detail::folder_within(parts.folder, parts.transformer));
    detail::Writer(parts, staging).write_beside_adapter();
    save_lora(staging, lora, base.lexically_normal().string());
  });
}

}  // namespace tapecache::models
