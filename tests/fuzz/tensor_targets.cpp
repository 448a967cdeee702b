#include <algorithm>
#include <string>
#include <vector>

#include "compare.h"
#include "folder.h"
#include "tapecache/core/files.h"
#include "tapecache/data/npy.h"
#include "tapecache/models/pretrained.h"
#include "tapecache/train/checkpoint.h"
#include "target_parts.h"

namespace tapecache::testing {

namespace {

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

constexpr FuzzTarget kTensorTargets[] = {
    {"safetensors", read_any_safetensors, safetensors_seeds},
    {"checkpoint", read_any_checkpoint, checkpoint_seeds},
    {"weights", read_any_weights, weights_seeds},
    {"npy", read_any_npy, npy_seeds},
};

}  // namespace

std::span<const FuzzTarget> tensor_targets() { return kTensorTargets; }

}  // namespace tapecache::testing
