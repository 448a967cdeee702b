#include "tapecache/models/pretrained.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <set>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tapecache/autograd/state.h"
#include "tapecache/core/error.h"
#include "tapecache/models/argument_checks.h"
#include "tapecache/models/encoder_fields.h"
#include "tapecache/models/linear_adapter.h"
#include "tapecache/models/pretrained_parts.h"
#include "tapecache/models/weight_reader.h"

namespace tapecache::models {

namespace detail {

namespace {

struct Family {
  std::string_view model_type;
  FamilyPlan (*plan)(const FamilySource& source);
};

constexpr std::array kFamilies{Family{"bert", plan_bert},
                               Family{"roberta", plan_roberta},
                               Family{"xlm-roberta", plan_xlm_roberta},
                               Family{"mpnet", plan_mpnet},
                               Family{"modernbert", plan_modernbert},
                               Family{"qwen3", plan_qwen3},
                               Family{"qwen2", plan_qwen2},
                               Family{"llama", plan_llama},
                               Family{"mistral", plan_mistral},
                               Family{"clip", plan_clip},
                               Family{"clip_text_model", plan_clip_text},
                               Family{"clip_vision_model", plan_clip_vision},
                               Family{"siglip", plan_siglip},
                               Family{"siglip_text_model", plan_siglip_text},
                               Family{"siglip_vision_model", plan_siglip_vision},
                               Family{"vit", plan_vit},
                               Family{"dinov2", plan_dinov2},
                               Family{"dinov2_with_registers", plan_dinov2_with_registers}};
constexpr Family kOpenClip{"open_clip", plan_open_clip};

/// There are no addresses for a tensor of sizes that no file has.
struct TooLarge {};

/// Zeros for what a file has not, until that is reported. They take addresses alone, and no memory. Throws TooLarge.
Tensor unbacked_zeros(const Shape& shape, DType dtype) {
  const std::size_t bytes = static_cast<std::size_t>(shape.numel()) * size_of(dtype);
  if (bytes == 0) return Tensor::zeros(shape, dtype);
  void* const memory =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw TooLarge();
  try {
    return Tensor::wrap(memory, shape, dtype, [memory, bytes] { ::munmap(memory, bytes); });
  } catch (...) {
    ::munmap(memory, bytes);
    throw;
  }
}

std::string pooling_name(const std::vector<SentenceModule>& modules) {
  std::vector<std::string_view> names;
  for (const TokenPooling pooling : modules.front().poolings) names.push_back(name(pooling));
  return fmt::format("{}", fmt::join(names, "+"));
}

/// What a tokenizer's configuration has texts cut to, or as many tokens as the model takes. Without a bound the number
/// is beyond all texts.
std::int64_t tokens_of_tokenizer(const JsonFields& fields, std::int64_t most) {
  const char* const name = fields.has("model_max_length") ? "model_max_length" : "max_len";
  return fields.number(name, static_cast<double>(most)) < static_cast<double>(most) ? fields.size(name, most) : most;
}

/// Reads a folder's parts one after another; what is wrong with them is told at once.
class Loader {
 public:
  Loader(const std::filesystem::path& folder, const PretrainedOptions& options)
      : folder_(folder_within(folder)), options_(options), builder_(options.seed, options.dtype) {
    std::error_code error;
    if (!std::filesystem::is_directory(folder, error)) {
      throw FileError(fmt::format("{}: cannot be read, expected a folder", folder.string()));
    }
  }

  PretrainedParts load() {
    sentence_ = read_sentence_modules(folder_, options_.files_from, problems_);
    const std::filesystem::path inner = folder_within(folder_, sentence_.transformer);
    parts_.tokenizer = folder_of(OtherFiles::of_tokenizer(), inner);
    parts_.processor = folder_of(OtherFiles::of_processor(), inner);
    std::error_code error;
    // A folder that has both is read as that of transformers.
    const bool is_open_clip = !std::filesystem::exists(inner / "config.json", error) &&
                              std::filesystem::exists(inner / "open_clip_config.json", error);
    parts_.config_file = is_open_clip ? "open_clip_config.json" : "config.json";
    parts_.weights = is_open_clip ? "open_clip_model" : "model";
    parts_.config = tapecache::detail::read_json(inner / parts_.config_file);
    const JsonFields fields(inner / parts_.config_file, parts_.config, problems_);
    const Family& family = is_open_clip ? kOpenClip : family_of(fields);
    WeightFiles files = WeightFiles::of_folder(inner, parts_.weights, {.memory_map = options_.memory_map});
    refuse_foreign_code(fields);
    plan_ = family.plan({fields, files, options_, sentence_.there});
    if (plan_.from_files) files.rename(plan_.from_files);
    plan_.info.architecture = family.model_type;
    // OpenCLIP cuts texts to the model's length, whatever its tokenizer says.
    read_max_tokens(is_open_clip ? std::filesystem::path() : parts_.tokenizer / "tokenizer_config.json");
    const std::vector<SentenceModule> modules = modules_after(plan_);
    const std::int64_t width = width_after(modules, plan_.info.width, sentence_.folder, problems_);
    if (!problems_.sizes_known()) problems_.throw_any();
    make_model(files, modules);
    problems_.throw_any();
    plan_.info.width = width;
    keep_parts(modules);
    builder_.set_training(false);
    return std::move(parts_);
  }

  const Builder& builder() const { return builder_; }

 private:
  /// The first that has them.
  std::filesystem::path folder_of(const OtherFiles& files, const std::filesystem::path& inner) const {
    for (const std::filesystem::path& folder : {options_.files_from, inner}) {
      if (!folder.empty() && files.are_in(folder)) return folder_within(folder);
    }
    return folder_;
  }

  const Family& family_of(const JsonFields& fields) {
    const std::string type = fields.text("model_type", "");
    const auto* const found = std::ranges::find(kFamilies, type, &Family::model_type);
    if (found != kFamilies.end()) return *found;
    std::vector<std::string_view> supported;
    supported.reserve(kFamilies.size());
    for (const Family& family : kFamilies) supported.push_back(family.model_type);
    fields.refuse("model_type", fmt::format("one of {}", fmt::join(supported, ", ")));
    problems_.throw_any();
    throw FileError(fields.where());
  }

  std::vector<SentenceModule> modules_after(const FamilyPlan& plan) {
    if (sentence_.there || !plan.pools) return sentence_.modules;
    return unsaid_modules(options_.pooling.value_or(plan.pooling), options_.normalize);
  }

  /// The parameters take their values from the files as they are made.
  void make_model(const WeightFiles& files, const std::vector<SentenceModule>& modules) {
    WeightReader reader(files, {.prefix = plan_.prefix});
    const auto read_by = [this](WeightReader& from) {
      return [this, &from](const std::string& name, const Shape& shape) {
        const Tensor value = from.value(name, shape, options_.dtype);
        return value.defined() ? value : unbacked_zeros(shape, options_.dtype);
      };
    };
    builder_.set_first_values(read_by(reader));
    try {
      parts_.model = plan_.make(builder_);
    } catch (const TooLarge&) {  // what was made before it is of other sizes than the file's too
      note(files, reader, builder_.parameters(), {});
      problems_.add(fmt::format("{}: asks for larger tensors than there can be", parts_.config_file));
      problems_.throw_any();
    }
    if (sentence_.is_clip && plan_.info.architecture != "clip") {
      problems_.add(fmt::format("{}: has a CLIPModel, whose model_type is {}, expected clip",
                                (folder_ / "modules.json").string(), plan_.info.architecture));
    } else if (sentence_.there && !plan_.pools && !sentence_.is_clip) {
      problems_.add(fmt::format("{}: there is one, expected none beside a {}", (folder_ / "modules.json").string(),
                                plan_.info.architecture));
    }
    // First as the files were saved, where other modules take the place of theirs.
    name_pooling(!sentence_.own           ? modules
                 : sentence_.own->empty() ? unsaid_modules(plan_.pooling, false)
                                          : *sentence_.own);
    for (const std::string& name : plan_.kept) {
      const Shape shape{std::span<const std::int64_t>(files.entry(plan_.prefix + name).sizes)};
      if (const Tensor value = reader.value(name, shape, options_.dtype); value.defined()) builder_.buffer(name, value);
    }
    note(files, reader, builder_.parameters(), builder_.buffers());
    if (sentence_.own) name_pooling(modules);
    try {
      make_head(modules, read_by);
    } catch (const TooLarge&) {
      problems_.add("modules.json: a module asks for larger tensors than there can be");
    }
    builder_.set_first_values({});
  }

  /// As sentence-transformers takes it from transformers where no file of its own has one.
  void read_max_tokens(const std::filesystem::path& file) {
    std::int64_t& tokens = plan_.info.max_tokens;
    std::error_code error;
    if (sentence_.max_tokens) {
      tokens = std::min(tokens, *sentence_.max_tokens);
    } else if (tokens > 0 && std::filesystem::exists(file, error)) {
      const Json json = tapecache::detail::read_json(file);
      tokens = tokens_of_tokenizer(JsonFields(file, json, problems_), tokens);
    }
  }

  /// Beside the weights too, so that they are not loaded into a model of another pooling without a word.
  void name_pooling(const std::vector<SentenceModule>& modules) {
    if (!modules.empty() && plan_.pools) plan_.info.pooling = pooling_name(modules);
    if (!plan_.pools && plan_.info.pooling != "pooler") return;
    for (const Parameter& p : builder_.parameters()) {
      if (p.settings().contains("pooling")) p.set("pooling", plan_.info.pooling);
    }
  }

  /// Of modules that have weights each has a file of its own.
  template <class ReadBy>
  void make_head(const std::vector<SentenceModule>& modules, const ReadBy& read_by) {
    std::map<std::string, std::unique_ptr<std::pair<WeightFiles, std::optional<WeightReader>>>> readers;
    for (const SentenceModule& module : modules) {
      if (module.kind != SentenceModule::Kind::kDense) continue;
      auto& of = readers[module.path];
      of = std::make_unique<std::pair<WeightFiles, std::optional<WeightReader>>>(
          WeightFiles::of_folder(folder_within(sentence_.folder, module.path), "model",
                                 {.memory_map = options_.memory_map}),
          std::nullopt);
      of->second.emplace(of->first, LoadOptions());
    }
    builder_.set_first_values([&](const std::string& name, const Shape& shape) {
      const std::string path = name.substr(0, name.rfind(".linear."));
      return read_by(*readers.at(path)->second)(name.substr(path.size() + 1), shape);
    });
    const std::size_t before = builder_.parameters().size(), linear_before = builder_.linear_layers().size();
    parts_.head = SentenceHead(builder_, modules);
    for (const auto& layer : std::span(builder_.linear_layers()).subspan(linear_before)) layer->adaptable = false;
    for (const auto& [path, reader] : readers) {
      std::vector<Parameter> own;
      for (const Parameter& p : std::span(builder_.parameters()).subspan(before)) {
        if (p.name().starts_with(path + ".")) own.push_back(p);
      }
      note(reader->first, *reader->second, own, {}, path + ".");
    }
  }

  void note(const WeightFiles& files, WeightReader& reader, std::span<const Parameter> parameters,
            std::span<const Buffer> buffers, const std::string& before = "") {
    std::vector<Buffer> state = state_of(parameters, buffers);
    for (Buffer& b : state) b.name.erase(0, before.size());
    const std::vector<std::string> found =
        reader.problems(state, parameters, [&](const Parameter& p) { return p.name().substr(before.size()); });
    if (!found.empty()) problems_.add(fmt::format("{}: {}", files.path().string(), fmt::join(found, "; ")));
  }

  void keep_parts(const std::vector<SentenceModule>& modules) {
    Pretrained::Info& info = plan_.info;
    if (!modules.empty()) {
      info.normalized = modules.back().kind == SentenceModule::Kind::kNormalize;
      if (!sentence_.there) sentence_.files.merge(files_of(modules, plan_.info.width));
    }
    info.lower_case = sentence_.lower_case;
    info.prompts = sentence_.prompts;
    info.default_prompt = sentence_.default_prompt;
    info.similarity = sentence_.similarity;
    parts_.info = info;
    for (const SentenceModule& module : modules) {
      if (module.kind == SentenceModule::Kind::kDense) parts_.modules.push_back(module.path);
    }
    parts_.folder = folder_;
    parts_.transformer = sentence_.transformer;
    parts_.carried = sentence_.files;
    parts_.to_files = plan_.to_files;
    parts_.saved_class = plan_.saved_class;
    parts_.parameters = builder_.parameters();
    parts_.buffers = builder_.buffers();
  }

  std::filesystem::path folder_;
  PretrainedOptions options_;
  Builder builder_;
  Problems problems_;
  SentenceModules sentence_;
  FamilyPlan plan_;
  PretrainedParts parts_;
};

}  // namespace

}  // namespace detail

const std::filesystem::path& Pretrained::folder() const { return parts_->folder; }
const std::filesystem::path& Pretrained::tokenizer_folder() const { return parts_->tokenizer; }
const std::filesystem::path& Pretrained::processor_folder() const { return parts_->processor; }
const Pretrained::Info& Pretrained::info() const { return parts_->info; }
bool Pretrained::encodes_texts() const { return parts_->model.states || parts_->model.texts; }
bool Pretrained::encodes_images() const { return parts_->model.images != nullptr; }
bool Pretrained::classifies_images() const { return parts_->model.classes != nullptr; }
std::optional<Parameter> Pretrained::logit_scale() const { return parts_->model.logit_scale; }
std::optional<Parameter> Pretrained::logit_bias() const { return parts_->model.logit_bias; }

Variable Pretrained::encode(const TokenBatch& texts) const {
  if (parts_->model.texts) return parts_->head(parts_->model.texts(texts), {});
  if (!parts_->model.states) throw ValueError(fmt::format("{}: encodes no texts", parts_->folder.string()));
  return parts_->head(parts_->model.states(texts), texts.valid);
}

Variable Pretrained::encode_images(const Variable& images) const {
  if (!parts_->model.images) throw ValueError(fmt::format("{}: encodes no images", parts_->folder.string()));
  return parts_->head(parts_->model.images(images), {});
}

Variable Pretrained::classify_images(const Variable& images) const {
  if (!parts_->model.classes) throw ValueError(fmt::format("{}: classifies no images", parts_->folder.string()));
  return parts_->model.classes(images);
}

Pretrained load_pretrained(const std::filesystem::path& folder, const PretrainedOptions& options) {
  if (options.dropout) detail::require_probability("load_pretrained", "dropout", *options.dropout);
  detail::Loader loader(folder, options);
  try {
    auto parts = std::make_shared<const Pretrained::Parts>(Pretrained::Parts{loader.load()});
    return Pretrained(loader.builder(), std::move(parts));
  } catch (const ShapeError& e) {  // of sizes whose product is none
    throw FileError(fmt::format("{}: {}", folder.string(), e.what()));
  } catch (const ValueError& e) {  // of a config that no model has
    throw FileError(fmt::format("{}: {}", folder.string(), e.what()));
  }
}

}  // namespace tapecache::models
