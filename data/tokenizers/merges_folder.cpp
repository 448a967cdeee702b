#include <string>
#include <vector>

#include "tapecache/data/tokenizers/draft.h"
#include "tapecache/data/tokenizers/folders.h"

namespace tapecache::data::tokenizers {

namespace {

Json split(const char* expression, const char* behavior, bool invert) {
  return of_type("Split", {{"pattern", regex(expression)}, {"behavior", text(behavior)}, {"invert", Json::of(invert)}});
}

}  // namespace

std::unique_ptr<JsonFile> from_merges(const std::filesystem::path& folder, const std::filesystem::path& model) {
  const JsonFile config_file = optional_file(folder / "tokenizer_config.json");
  const Field config = config_file.root();
  std::string kind = kind_of(model, config,
                             {{"CLIP", "clip"},
                              {"Roberta", "roberta"},
                              {"Bart", "roberta"},
                              {"Longformer", "roberta"},
                              {"GPT2", "gpt2"},
                              {"Qwen2", "qwen"},
                              {"Qwen3", "qwen"}});
  Draft draft(folder, config);
  bool has_word_ends = false;
  const JsonFile vocabulary_file(folder / "vocab.json");
  vocabulary_file.root().for_each([&](const std::string& token, const Field& id) {
    draft.put(token, id.id());
    has_word_ends = has_word_ends || token.ends_with("</w>");
  });
  std::vector<Json> merges;
  for (const std::string& line : lines_of(folder / "merges.txt")) {
    if (!line.empty() && !line.starts_with("#version")) merges.push_back(text(line));
  }
  draft.set_model(of_type("BPE", {{"merges", Json::array(std::move(merges))}}));
  if (kind.empty()) kind = has_word_ends ? "clip" : draft.has("<s>") ? "roberta" : "gpt2";
  const bool prefix = config.boolean_or("add_prefix_space", false);
  draft.add_listed();
  if (kind == "clip") {
    const std::string begin = token_or(config, "bos_token", "<|startoftext|>");
    const std::string end = token_or(config, "eos_token", "<|endoftext|>");
    draft.set_of_model("end_of_word_suffix", text("</w>"));
    draft.set_of_model("unk_token", text(token_or(config, "unk_token", "<|endoftext|>")));
    draft.set("normalizer",
              sequence_of("normalizers",
                          {of_type("NFC"), of_type("Replace", {{"pattern", regex("\\s+")}, {"content", text(" ")}}),
                           of_type("Lowercase")}));
    draft.set("pre_tokenizer",
              sequence_of("pretokenizers",
                          {split(R"('s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+)", "Removed", true),
                           byte_level(false, true)}));
    draft.set("post_processor", roberta_processing(draft, begin, end));
    for (const std::string& token : {begin, end}) draft.add_special(token);
  } else if (kind == "roberta") {
    const std::string cls = token_or(config, "cls_token", "<s>"), sep = token_or(config, "sep_token", "</s>");
    draft.set_of_model("unk_token", text(token_or(config, "unk_token", "<unk>")));
    draft.set("pre_tokenizer", byte_level(prefix, true));
    draft.set("post_processor", roberta_processing(draft, cls, sep));
    for (const std::string& token :
         {cls, sep, token_or(config, "pad_token", "<pad>"), token_or(config, "unk_token", "<unk>")}) {
      draft.add_special(token);
    }
    draft.add_special(token_or(config, "mask_token", "<mask>"), true);
  } else if (kind == "qwen") {
    draft.set("normalizer", of_type("NFC"));
    draft.set(
        "pre_tokenizer",
        sequence_of(
            "pretokenizers",
            {split(
                 R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|)"
                 R"(\s+(?!\S)|\s+)",
                 "Isolated", false),
             byte_level(false, false)}));
    draft.add_special("<|endoftext|>");
  } else {
    draft.set("pre_tokenizer", byte_level(prefix, true));
    draft.set_of_model("unk_token", text(token_or(config, "unk_token", "<|endoftext|>")));
    draft.add_special("<|endoftext|>");
  }
  draft.add_others();
  return std::move(draft).file("merges.txt");
}

}  // namespace tapecache::data::tokenizers
