#include "tapecache/data/tokenizers/draft.h"
#include "tapecache/data/tokenizers/folders.h"
#include "tapecache/data/tokenizers/unicode.h"

namespace tapecache::data::tokenizers {

std::unique_ptr<JsonFile> from_word_pieces(const std::filesystem::path& folder, const std::filesystem::path& model) {
  const JsonFile config_file = optional_file(folder / "tokenizer_config.json");
  const Field config = config_file.root();
  const bool mpnet = kind_of(model, config,
                             {{"Bert", "bert"},
                              {"DistilBert", "bert"},
                              {"Electra", "bert"},
                              {"MobileBert", "bert"},
                              {"MPNet", "mpnet"}}) == "mpnet";
  Draft draft(folder, config);
  const std::string unknown = token_or(config, "unk_token", "[UNK]"),
                    pad = token_or(config, "pad_token", mpnet ? "<pad>" : "[PAD]");
  const std::string cls = token_or(config, "cls_token", mpnet ? "<s>" : "[CLS]");
  const std::string sep = token_or(config, "sep_token", mpnet ? "</s>" : "[SEP]");
  draft.set_model(of_type("WordPiece", {{"unk_token", text(unknown)},
                                        {"continuing_subword_prefix", text("##")},
                                        {"max_input_chars_per_word", Json::of(std::int64_t{100})}}));
  std::int32_t id = 0;
  for (std::string& line : lines_of(folder / "vocab.txt")) {
    for (std::size_t end = line.size(); end > 0 && is_whitespace(previous_character(line, end));) line.resize(end);
    draft.put(line, id++);
  }
  draft.set("normalizer", bert_normalizer(config));
  draft.set("pre_tokenizer", of_type("BertPreTokenizer"));
  draft.set("post_processor", mpnet
                                  ? roberta_processing(draft, cls, sep)
                                  : of_type("BertProcessing", {{"sep", draft.named(sep)}, {"cls", draft.named(cls)}}));
  draft.add_listed();
  for (const std::string& token : {pad, unknown, cls, sep}) draft.add_special(token);
  draft.add_special(token_or(config, "mask_token", mpnet ? "<mask>" : "[MASK]"), mpnet);
  draft.add_others();
  return std::move(draft).file("vocab.txt");
}

}  // namespace tapecache::data::tokenizers
