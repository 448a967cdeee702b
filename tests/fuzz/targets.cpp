#include "targets.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <stdexcept>

#include <fmt/format.h>

#include "compare.h"
#include "folder.h"
#include "pairs_file.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/error.h"
#include "tapecache/core/safetensors.h"
#include "tapecache/data/npy.h"
#ifdef TAPECACHE_HAS_TOKENIZERS
#include "tapecache/data/tokenizers/tokenizer.h"
#endif
#include "tapecache/data/word_tokenizer.h"
#include "tapecache/models/bert.h"
#include "tapecache/models/layers.h"
#include "tapecache/models/lora.h"
#include "tapecache/models/pretrained.h"
#include "tapecache/models/weights.h"
#include "tapecache/train/checkpoint.h"

namespace tapecache::testing {

namespace {

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz: %s\n", what);
  std::abort();
}

/// A file of these bytes, in memory alone.
class MemoryFile {
 public:
  explicit MemoryFile(std::string_view bytes) : descriptor_(::memfd_create("fuzz", 0)) {
    require(descriptor_ >= 0, "no file in memory could be made");
    while (!bytes.empty()) {
      const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
      require(written > 0, "a file in memory could not be written");
      bytes.remove_prefix(static_cast<std::size_t>(written));
    }
  }
  ~MemoryFile() { ::close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  std::filesystem::path path() const { return fmt::format("/proc/self/fd/{}", descriptor_); }

 private:
  int descriptor_;
};

/// What a target may refuse with.
template <class Read>
bool takes(Read read) {
  try {
    read();
    return true;
  } catch (const FileError&) {
  } catch (const OutOfMemory&) {
  }
  return false;
}

std::string written(const SafetensorsFile& file) {
  const Folder folder;
  write_safetensors(folder / "file", file);
  return contents(folder / "file");
}

bool same(const SafetensorsFile& a, const SafetensorsFile& b) {
  const auto equal = [](const auto& x, const auto& y) { return x.first == y.first && same_bits(x.second, y.second); };
  return std::equal(a.tensors.begin(), a.tensors.end(), b.tensors.begin(), b.tensors.end(), equal) &&
         a.metadata == b.metadata;
}

void read_any_safetensors(std::string_view bytes) {
  SafetensorsFile file;
  if (!takes([&] { file = read_safetensors(MemoryFile(bytes).path()); })) return;
  require(same(file, read_safetensors(MemoryFile(bytes).path(), {.memory_map = true})),
          "what is mapped is not what is read");
  const SafetensorsFile again = read_safetensors(MemoryFile(written(file)).path());
  require(same(file, again), "what was read is not what it is when it is written and read again");
}

/// The smallest of each kind that a file may hold.
std::vector<std::string> safetensors_seeds() {
  SafetensorsFile kinds;
  for (const DType dtype :
       {DType::kFloat64, DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kInt64, DType::kInt32}) {
    kinds.tensors.emplace(std::string(name(dtype)), Tensor::full({2, 1}, 1, dtype));
  }
  kinds.tensors.emplace("flags", Tensor::from(std::vector<bool>{true, false}, {2}));
  kinds.tensors.emplace("scalar", Tensor::full({}, 2));
  kinds.tensors.emplace("empty", Tensor::zeros({0, 3}));
  kinds.metadata = {{"note", "ä \"quoted\"\n"}};
  return {written({}), written(kinds)};
}

/// Something small to be loaded into, that remembers what it was.
struct Loaded {
  std::vector<Parameter> parameters{{"w", Tensor::full({2, 2}, 0.5)}, {"b", Tensor::full({2}, 0.25)}};
  Buffer average{"average", Tensor::full({2}, 0.125)};
  train::AdamW adam{parameters};
  train::Sgd sgd{parameters, {.momentum = 0.5}};

  std::vector<train::Optimizer*> optimizers() { return {&adam, &sgd}; }
  std::vector<Tensor> state() {
    std::vector<Tensor> all{average.value};
    for (const Parameter& p : parameters) all.push_back(p.value());
    for (const train::Optimizer* optimizer : optimizers()) {
      for (const auto& [name, tensor] : optimizer->state()) all.push_back(tensor);
    }
    return all;
  }
  template <class Load>
  void load(Load load) {
    std::vector<Tensor> before;
    for (const Tensor& tensor : state()) before.push_back(tensor.clone());
    if (takes(load)) return;
    require(std::ranges::equal(state(), before, same_bits),
            "a file that was refused changed what it was to be loaded into");
  }
};

void read_any_checkpoint(std::string_view bytes) {
  Loaded loaded;
  const MemoryFile file(bytes);
  loaded.load([&] {
    train::load_checkpoint(file.path(), loaded.parameters, loaded.optimizers(), std::span(&loaded.average, 1));
  });
}

std::vector<std::string> checkpoint_seeds() {
  Loaded loaded;
  const Folder folder;
  const std::vector<const train::Optimizer*> optimizers{&loaded.adam, &loaded.sgd};
  train::save_checkpoint(folder / "file", loaded.parameters, optimizers,
                         {.step = 3, .seed = 4, .notes = {{"rate", "0.1"}}}, std::span(&loaded.average, 1));
  return {contents(folder / "file")};
}

/// The first byte chooses the options.
void read_any_weights(std::string_view bytes) {
  if (bytes.empty()) return;
  const auto choice = static_cast<unsigned char>(bytes.front());
  Loaded loaded;
  const MemoryFile file(bytes.substr(1));
  const models::LoadOptions options{.strict = (choice & 1) != 0,
                                    .prefix = (choice & 2) != 0 ? "model." : "",
                                    .allow_non_finite = (choice & 4) != 0,
                                    .memory_map = (choice & 8) != 0};
  loaded.load([&] { models::load_weights(file.path(), loaded.parameters, options); });
}

std::vector<std::string> weights_seeds() {
  std::vector<std::string> seeds;
  for (const std::string prefix : {"", "model."}) {
    for (const DType dtype : {DType::kFloat32, DType::kFloat16}) {
      SafetensorsFile file;
      file.tensors.emplace(prefix + "w", Tensor::full({2, 2}, 0.75, dtype));
      file.tensors.emplace(prefix + "b", Tensor::full({2}, 0.75, dtype));
      seeds.push_back((prefix.empty() ? '\1' : '\3') + written(file));
    }
  }
  return seeds;
}

/// Lines are words of the vocabulary, until an empty one; the rest is text.
void tokenize_anything(std::string_view bytes) {
  const std::size_t end = std::min(bytes.find("\n\n"), bytes.size());
  const std::string_view text = bytes.substr(std::min(end + 2, bytes.size()));
  std::vector<std::string> words;
  for (std::size_t begin = 0; begin < end;) {
    const std::size_t line = std::min(bytes.find('\n', begin), end);
    words.emplace_back(bytes.substr(begin, line - begin));
    begin = line + 1;
  }
  const auto check = [&](const data::WordTokenizer& tokenizer) {
    constexpr int kMax = 40;
    const std::vector<std::int32_t> ids = tokenizer.encode(text, kMax);
    require(ids.size() >= 2 && ids.size() <= kMax, "the number of ids is out of range");
    require(ids.front() == data::WordTokenizer::kBegin && ids.back() == data::WordTokenizer::kEnd,
            "ids lack their marks");
    require(std::ranges::all_of(ids, [&](std::int32_t id) { return id >= 0 && id < tokenizer.vocabulary_size(); }),
            "an id is out of range");
  };
  try {
    check(data::WordTokenizer(words));
  } catch (const ValueError&) {
    // One of the words is none.
  }
  check(data::WordTokenizer::build(words, 1));
}

std::vector<std::string> tokenizer_seeds() {
  return {"red\nheart\n\nA red HEART, größer 3rd", "\n\n", "a\n\n\xff\xc3"};
}

void read_any_npy(std::string_view bytes) {
  const MemoryFile file(bytes);
  Tensor read;
  if (!takes([&] { read = data::read_npy(file.path()); })) return;
  const Folder folder;
  data::write_npy(folder / "file.npy", read);
  require(same_bits(data::read_npy(folder / "file.npy"), read), "an array that was written is read as another");
}

std::vector<std::string> npy_seeds() {
  std::vector<std::string> seeds;
  const Folder folder;
  for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBool}) {
    data::write_npy(folder / "file.npy", Tensor::full({2, 3}, 1, dtype));
    seeds.push_back(contents(folder / "file.npy"));
  }
  return seeds;
}

/// The first byte chooses the kind of file and the options.
void read_any_pairs(std::string_view bytes) {
  if (bytes.empty()) return;
  const auto choice = static_cast<unsigned char>(bytes.front());
  const char* names[] = {"p.csv", "p.tsv", "p.jsonl"};
  const Folder folder;
  const auto path = folder / names[choice % 3];
  put(path, bytes.substr(1));
  program::Pairs pairs;
  if (!takes(
          [&] { pairs = program::read_pairs(path, {.header = (choice & 4) != 0, .skip_empty = (choice & 8) != 0}); })) {
    return;
  }
  require(pairs.size() > 0 && pairs.anchors.size() == pairs.positives.size() &&
              pairs.negatives.size() == static_cast<std::size_t>(pairs.size() * pairs.hard_negatives),
          "sides of pairs differ in number");
}

std::vector<std::string> pairs_seeds() {
  return {
      "\x06"
      "anchor,positive\n\"a, \"\"b\"\"\nc\",d\n",
      "\x07"
      "query\tpassage\tnegative\na\tb\tc\n",
      "\x01"
      "a\tb\n",
      "\x0e"
      "{\"anchor\": \"a\", \"positive\": \"b\", \"neg\": [\"c\"]}\n"};
}

// The files of a model's folder, one after another, each after a line with its name: "=== 1_Pooling/config.json". Those
// that are not there are as in a folder that is right; the weights, of a few numbers, are.
constexpr std::string_view kFolderFiles[] = {"config.json",
                                             "modules.json",
                                             "1_Pooling/config.json",
                                             "2_Dense/config.json",
                                             "sentence_bert_config.json",
                                             "config_sentence_transformers.json",
                                             "model.safetensors.index.json",
                                             "open_clip_config.json"};

constexpr std::string_view kBertConfig =
    R"({"model_type": "bert", "vocab_size": 8, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2,
"intermediate_size": 4, "max_position_embeddings": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-12}
)";
constexpr std::string_view kModules =
    R"([{"path": "", "type": "sentence_transformers.models.Transformer"},
{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
{"path": "2_Dense", "type": "sentence_transformers.models.Dense"},
{"path": "3_Normalize", "type": "sentence_transformers.models.Normalize"}]
)";
constexpr std::string_view kPooling = R"({"word_embedding_dimension": 4, "pooling_mode_mean_tokens": true}
)";
constexpr std::string_view kDense =
    R"({"in_features": 4, "out_features": 3, "activation_function": "torch.nn.modules.activation.Tanh"}
)";

/// A folder of weights for every way that a model is read; the same one for all inputs, which name the other files.
class ModelFolder {
 public:
  ModelFolder() {
    std::filesystem::create_directories(folder_ / "1_Pooling");
    std::filesystem::create_directories(folder_ / "2_Dense");
    const models::Bert bert(
        {.vocabulary = 8, .max_tokens = 4, .encoder = {.width = 4, .layers = 1, .heads = 2, .mlp_width = 4}}, 1);
    models::save_weights(folder_ / "weights", bert.builder());
    const models::Builder builder(2);
    const models::Linear dense(builder.child("linear"), 4, 3, models::Init::normal(1));
    models::save_weights(folder_ / "2_Dense/model.safetensors", builder);
  }

  const std::filesystem::path& fill(std::string_view bytes) {
    for (const std::string_view file : kFolderFiles) std::filesystem::remove(folder_ / std::string(file));
    std::filesystem::remove(folder_ / "model.safetensors");
    put(folder_ / "config.json", kBertConfig);
    put(folder_ / "1_Pooling/config.json", kPooling);
    put(folder_ / "2_Dense/config.json", kDense);
    constexpr std::string_view kMark = "=== ";
    while (bytes.starts_with(kMark)) {
      const std::size_t line = std::min(bytes.find('\n'), bytes.size());
      const std::string_view file = bytes.substr(kMark.size(), line - std::min(line, kMark.size()));
      bytes.remove_prefix(std::min(line + 1, bytes.size()));
      const std::size_t end = std::min(bytes.find(kMark), bytes.size());
      if (std::ranges::find(kFolderFiles, file) != std::end(kFolderFiles)) {
        put(folder_ / std::string(file), bytes.substr(0, end));
        if (file == "open_clip_config.json") std::filesystem::remove(folder_ / "config.json");
      }
      bytes.remove_prefix(end);
    }
    const bool has_index = std::filesystem::exists(folder_ / "model.safetensors.index.json");
    std::filesystem::copy(folder_ / "weights", folder_ / (has_index ? "shard.safetensors" : "model.safetensors"),
                          std::filesystem::copy_options::overwrite_existing);
    return folder_.path();
  }

 private:
  Folder folder_;
};

/// What is taken can be used, saved, and loaded to the same bits.
void load_any_folder(std::string_view bytes) {
  static ModelFolder folder;
  std::optional<models::Pretrained> model;
  const std::filesystem::path& path = folder.fill(bytes);
  if (!takes([&] { model = models::load_pretrained(path); })) return;
  const models::TokenBatch texts{Tensor::from({1, 2, 3, 4}, {2, 2})};
  const NoRecording off;
  const Folder saved;
  models::save_pretrained(saved / "model", *model);
  const models::Pretrained again = models::load_pretrained(saved / "model");
  require(same_bits(model->encode(texts).value(), again.encode(texts).value()),
          "a saved model encodes otherwise than the one that it was saved of");
}

std::vector<std::string> folder_seeds() {
  const std::string all = fmt::format("=== config.json\n{}=== modules.json\n{}=== 1_Pooling/config.json\n{}",
                                      kBertConfig, kModules, kPooling);
  return {
      fmt::format("=== config.json\n{}", kBertConfig),
      all,
      fmt::format("{}=== 2_Dense/config.json\n{}", all, kDense),
      all +
          "=== sentence_bert_config.json\n{\"max_seq_length\": 3, \"do_lower_case\": true}\n"
          "=== config_sentence_transformers.json\n{\"prompts\": {\"query\": \"q: \"}, \"similarity_fn_name\": "
          "\"dot\"}\n",
      "=== model.safetensors.index.json\n{\"weight_map\": {\"embeddings.LayerNorm.bias\": \"shard.safetensors\"}}\n",
      "=== open_clip_config.json\n{\"model_cfg\": {\"embed_dim\": 4, \"quick_gelu\": true, \"vision_cfg\": {\"width\": "
      "4},"
      " \"text_cfg\": {\"heads\": 2}}}\n"};
}

#ifdef TAPECACHE_HAS_TOKENIZERS
/// A tokenizer.json, a NUL and a text.
void tokenize_by_any_file(std::string_view bytes) {
  const std::size_t end = std::min(bytes.find('\0'), bytes.size());
  const std::string text(bytes.substr(std::min(end + 1, bytes.size())));
  const MemoryFile file(bytes.substr(0, end));
  std::optional<data::Tokenizer> tokenizer;
  if (!takes([&] { tokenizer.emplace(data::Tokenizer::load(file.path())); })) return;
  const auto check = [&](const data::Encoding& encoding) {
    require(encoding.ids.size() == encoding.types.size(), "ids and types differ in number");
    require(std::ranges::all_of(encoding.ids, [&](auto id) { return id >= 0 && id < tokenizer->vocabulary_size(); }),
            "an id is out of range");
  };
  try {
    const data::Encoding alone = tokenizer->encode(text);
    check(alone);
    check(tokenizer->encode_pair(text, text, {.pad = true}));
    const std::string batch[] = {text, "", text};
    require(tokenizer->encode_batch(batch)[2].ids == alone.ids, "a text has other ids in a batch");
    require(tokenizer->encode(text, {.max_tokens = 8}).ids.size() <= 8, "more ids than were asked for");
  } catch (const ValueError&) {
    // Its truncation cannot be done, or it has no token for the unknown.
  }
}

/// A model of SentencePiece, as T5's or, where its first byte is a 'B', as Llama's.
void tokenize_by_any_model(std::string_view bytes) {
  static const Folder folder;
  const bool is_bpe = bytes.starts_with('B');
  put(folder / "tokenizer_config.json",
      is_bpe ? R"({"tokenizer_class": "LlamaTokenizer"})" : R"({"tokenizer_class": "T5Tokenizer", "extra_ids": 2})");
  put(folder / "spiece.model", bytes.substr(is_bpe ? 1 : 0));
  std::optional<data::Tokenizer> tokenizer;
  if (!takes([&] { tokenizer.emplace(data::Tokenizer::load(folder.path())); })) return;
  try {
    const data::Encoding found = tokenizer->encode("Hello <s> \u00c5land, don't!  \u4e2d\u6587 123\xff");
    require(std::ranges::all_of(found.ids, [&](auto id) { return id >= 0 && id < tokenizer->vocabulary_size(); }),
            "an id that the vocabulary has not");
  } catch (const ValueError&) {
    // It has no token for the unknown.
  }
}

std::vector<std::string> sentencepiece_seeds() {
  const auto field = [](char key, const std::string& value) {
    return std::string{key, static_cast<char>(value.size())} + value;
  };
  std::string pieces;
  for (const char* const text : {"<pad>", "</s>", "<unk>", "<s>", "\u2581", "H", "e", "l", "He", "ll", "\u2581He"}) {
    const bool is_control = text[0] == '<';
    pieces += field(
        0x0A, field(0x0A, text) + std::string("\x15\x00\x00\x80\xbf\x18", 6) + static_cast<char>(is_control ? 3 : 1));
  }
  const std::string unigram("\x12\x05\x18\x01\xc0\x02\x02", 7), bpe("\x12\x05\x18\x02\xc0\x02\x02", 7);
  return {pieces + unigram, "B" + pieces + bpe};
}

std::vector<std::string> tokenizer_file_seeds() {
  const std::string text = std::string(1, '\0') + "Hello <s> \u00c5land, don't!  \u4e2d\u6587 123\xff";
  const std::string added = R"("added_tokens":[{"id":9,"content":"<s>","lstrip":true,"normalized":false}],)";
  return {
      R"({)" + added +
          R"("normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,)"
          R"("strip_accents":null,"lowercase":true},"pre_tokenizer":{"type":"BertPreTokenizer"},)"
          R"("post_processor":{"type":"BertProcessing","sep":["c",2],"cls":["b",1]},)"
          R"("truncation":{"direction":"Right","max_length":6,"strategy":"LongestFirst","stride":0},)"
          R"("model":{"type":"WordPiece","unk_token":"u","continuing_subword_prefix":"##","max_input_chars_per_word":9,)"
          R"("vocab":{"u":0,"b":1,"c":2,"he":3,"##l":4,"##lo":5,",":6,"aland":7}}})" +
          text,
      R"({)" + added +
          R"("normalizer":{"type":"NFC"},"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split",)"
          R"("pattern":{"Regex":"\\s+|\\p{L}+"},"behavior":"Isolated","invert":false},)"
          R"({"type":"ByteLevel","add_prefix_space":true,"use_regex":true}]},)"
          R"("model":{"type":"BPE","vocab":{"H":0,"e":1,"l":2,"He":3,"ll":4,"Hell":5},"merges":[["H","e"],"l l","He ll"]}})" +
          text,
      R"({"normalizer":{"type":"Sequence","normalizers":[)"
      R"({"type":"Precompiled","precompiled_charsmap":"DAAAAAAEAACAAAAAAAAAAGEA"},)"
      R"({"type":"Replace","pattern":{"String":"l"},"content":"L"}]},"pre_tokenizer":{"type":"Metaspace",)"
      R"("replacement":"_","prepend_scheme":"first"},"padding":{"strategy":{"Fixed":9},"direction":"Left","pad_id":1,)"
      R"("pad_type_id":0,"pad_token":"_"},"model":{"type":"Unigram","unk_id":0,"byte_fallback":true,)"
      R"("vocab":[["u",0],["_",-1],["He",-2],["_He",-2.5],["<0xFF>",-9]]}})" +
          text,
  };
}
#endif

models::BertConfig adapted_config() {
  return {.vocabulary = 5, .max_tokens = 4, .encoder = {.width = 4, .layers = 1, .heads = 2, .mlp_width = 4}};
}

/// An adapter_config.json, a NUL and an adapter_model.safetensors. What is taken can be saved, and loaded to the same
/// bits.
void load_any_adapter(std::string_view bytes) {
  static const Folder folder;
  const std::size_t end = std::min(bytes.find('\0'), bytes.size());
  put(folder / "adapter_config.json", bytes.substr(0, end));
  put(folder / "adapter_model.safetensors", bytes.substr(std::min(end + 1, bytes.size())));
  const models::TokenBatch texts{Tensor::from({1, 2, 3, 4}, {2, 2})};
  const NoRecording off;
  const models::Bert model(adapted_config(), 1), other(adapted_config(), 1);
  std::optional<models::Lora> lora;
  if (!takes([&] { lora = models::load_lora(folder.path(), model); })) return;
  models::save_lora(folder / "saved", *lora);
  models::load_lora(folder / "saved", other);
  require(same_bits(model(texts).value(), other(texts).value()), "a saved adapter makes another model");
}

std::vector<std::string> adapter_seeds() {
  const Folder folder;
  std::vector<std::string> seeds;
  for (const models::LoraOptions& options :
       {models::LoraOptions{.rank = 2},
        models::LoraOptions{.rank = 1, .targets = {"query"}, .rank_stabilized = true}}) {
    const models::Bert model(adapted_config(), 1);
    models::save_lora(folder.path(), models::add_lora(model, options), "base");
    std::string seed = contents(folder / "adapter_config.json");
    seed.push_back('\0');
    seeds.push_back(seed + contents(folder / "adapter_model.safetensors"));
  }
  return seeds;
}

constexpr FuzzTarget kTargets[] = {
    {"safetensors", read_any_safetensors, safetensors_seeds},
    {"checkpoint", read_any_checkpoint, checkpoint_seeds},
    {"weights", read_any_weights, weights_seeds},
    {"npy", read_any_npy, npy_seeds},
    {"pairs", read_any_pairs, pairs_seeds},
    {"word_tokenizer", tokenize_anything, tokenizer_seeds},
    {"pretrained", load_any_folder, folder_seeds},
    {"adapter", load_any_adapter, adapter_seeds},
#ifdef TAPECACHE_HAS_TOKENIZERS
    {"tokenizer", tokenize_by_any_file, tokenizer_file_seeds},
    {"sentencepiece", tokenize_by_any_model, sentencepiece_seeds},
#endif
};

}  // namespace

std::span<const FuzzTarget> fuzz_targets() { return kTargets; }

const FuzzTarget& fuzz_target(std::string_view name) {
  const auto found = std::ranges::find(kTargets, name, &FuzzTarget::name);
  if (found == std::end(kTargets)) throw std::out_of_range(fmt::format("fuzz: there is no target '{}'", name));
  return *found;
}

}  // namespace tapecache::testing
