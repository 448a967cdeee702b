#include "command_inspect.h"

#include <cstdio>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "image_encoder.h"
#include "model_options.h"
#include "parameter_groups.h"
#include "tapecache/core/error.h"
#include "tapecache/data/tokenizers/tokenizer.h"
#include "tapecache/models/lora.h"
#include "tapecache/models/pretrained.h"

namespace tapecache::program {

namespace {

void show(const char* name, const std::string& value) { fmt::print("{:<14} {}\n", name, value); }

void show_model(const models::Pretrained& model, bool list) {
  const models::Pretrained::Info& info = model.info();
  std::int64_t numbers = 0;
  std::map<std::string, std::pair<std::int64_t, std::int64_t>> groups;  // parameters, numbers
  std::vector<std::string> order;
  for (const Parameter& p : model.parameters()) {
    numbers += p.value().numel();
    const std::string group = group_of(p.name());
    if (!groups.contains(group)) order.push_back(group);
    ++groups[group].first;
    groups[group].second += p.value().numel();
  }
  show("architecture", info.architecture);
  show("parameters", fmt::format("{} in {} tensors", numbers, model.parameters().size()));
  show("width", std::to_string(info.width));
  if (model.encodes_texts()) {
    show("texts", fmt::format("at most {} tokens, ids below {}, pooling: {}{}", info.max_tokens, info.vocabulary,
                              info.pooling, info.normalized ? ", length 1" : ""));
  }
  if (model.encodes_images()) {
    show("images", fmt::format("{} x {}{} with {} channels", info.image_size, info.image_size,
                               info.image_patch > 0 ? fmt::format(", or other multiples of {}", info.image_patch) : "",
                               info.image_channels));
  }
  show("similarity", info.similarity);
  for (const auto& [name, prompt] : info.prompts) {
    show("prompt", fmt::format("{}: '{}'{}", name, prompt, info.default_prompt == name ? " (the default)" : ""));
  }
  for (const std::string& note : info.notes) show("note", note);
  fmt::print("\n");
  if (list) {
    for (const Parameter& p : model.parameters()) fmt::print("{:<60} {}\n", p.name(), to_string(p.value().shape()));
  } else {
    for (const std::string& group : order) {
      fmt::print("{:<40} {:>4} tensors {:>12} numbers\n", group, groups[group].first, groups[group].second);
    }
  }
}

}  // namespace

int run_inspect(const InspectCommand& command) {
  std::vector<std::string> faults;
  show("folder", model_folder(command.folder).string());
  const std::filesystem::path base = base_folder(command.folder, command.base);
  const bool is_adapter = models::Lora::is_in(command.folder);
  if (is_adapter) show("base", base.string());
  // Of a model that cannot be loaded the tokenizer is still worth a look.
  std::optional<data::Tokenizer> tokenizer;
  const auto load_tokenizer = [&](const std::filesystem::path& folder, bool lower_case) {
    try {
      tokenizer = data::Tokenizer::load(folder, {.lower_case = lower_case, .model = base});
      show("tokenizer", fmt::format("{} ids, pads with {}{}", tokenizer->vocabulary_size(), tokenizer->pad_id(),
                                    tokenizer->pads_left() ? " on the left" : ""));
    } catch (const Error& e) {
      faults.push_back(fmt::format("tokenizer: {}", e.what()));
    }
  };
  models::PretrainedOptions options = pretrained_options(command.folder);
  options.memory_map = true;
  bool is_loaded = false;
  try {
    const models::Pretrained model = models::load_pretrained(base, options);
    is_loaded = true;
    if (model.encodes_texts()) load_tokenizer(model.tokenizer_folder(), model.info().lower_case);
    if (is_adapter) {
      const models::Lora lora = models::load_lora(command.folder, model);
      std::int64_t numbers = 0;
      for (const Parameter& p : lora.parameters()) numbers += p.value().numel();
      show("adapter", fmt::format("{} numbers beside {} linear layers", numbers, lora.layers().size()));
    }
    if (model.encodes_images()) {
      try {
        show("preprocessing", ImageEncoder(model, {}).description());
      } catch (const Error& e) {
        faults.push_back(fmt::format("preprocessing: {}", e.what()));
      }
    }
    show_model(model, command.parameters);
    if (tokenizer && tokenizer->vocabulary_size() > model.info().vocabulary) {
      faults.push_back(fmt::format("tokenizer: has {} ids, the model's embedding table {} rows",
                                   tokenizer->vocabulary_size(), model.info().vocabulary));
    }
  } catch (const Error& e) {
    if (!is_loaded) load_tokenizer(base, false);
    faults.push_back(fmt::format("model: {}", e.what()));
  }
  std::fflush(stdout);
  for (const std::string& fault : faults) fmt::print(stderr, "tapecache: not supported: {}\n", fault);
  return faults.empty() ? kDone : kBadInput;
}

}  // namespace tapecache::program
