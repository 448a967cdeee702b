// Models of folders that transformers, sentence-transformers and OpenCLIP saved, against what those libraries make of
// them: see make_references.py.

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "checks.h"
#include "folder.h"
#include "reference_cases.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/models/bert.h"
#include "tapecache/models/lora.h"
#include "tapecache/models/pretrained.h"
#include "tapecache/train/optimizer.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

namespace {

Tensor transposed_matrix(const Tensor& x) { return ops::transpose(x, 0, 1).value().clone(); }

Tensor rows_of(const Tensor& all, std::int64_t part) {
  const std::int64_t rows = all.size(0) / 3;
  return all.slice(part * rows, (part + 1) * rows).clone();
}

std::string replaced(std::string text, const std::map<std::string, std::string>& names) {
  for (const auto& [theirs, ours] : names) {
    const std::size_t at = text.find(theirs);
    if (at != std::string::npos) text.replace(at, theirs.size(), ours);
  }
  return text;
}

/// Those of OpenCLIP's SigLIP, whose vision tower is timm's, by transformers' names.
std::map<std::string, Tensor> gradients_with_timm(const SafetensorsFile& file) {
  std::map<std::string, Tensor> gradients;
  const auto of = [&](const std::string& name) { return file.tensors.at("gradient." + name); };
  for (const auto& [key, tensor] : file.tensors) {
    constexpr std::string_view kBefore = "gradient.";
    if (!key.starts_with(kBefore) || key.find("attn_pool.q.") != std::string::npos) continue;
    const std::string name = key.substr(kBefore.size());
    const std::string kind = name.ends_with("weight") ? "weight" : "bias";
    if (const std::size_t at = name.find("attn_pool.kv."); at != std::string::npos) {
      const Variable parts[] = {of(name.substr(0, at) + "attn_pool.q." + kind), tensor};
      gradients.emplace("vision_model.head.attention.in_proj_" + kind,
                        ops::concat(std::span<const Variable>(parts), 0).value());
      continue;
    }
    const std::string ours = replaced(name.ends_with("in_proj_weight") || name.ends_with("in_proj_bias")
                                          ? name.substr(0, name.find("in_proj_")) + kind
                                          : name,
                                      {{"visual.trunk.blocks.", "vision_model.encoder.layers."},
                                       {"visual.trunk.pos_embed", "vision_model.embeddings.position_embedding.weight"},
                                       {"visual.trunk.patch_embed.proj", "vision_model.embeddings.patch_embedding"},
                                       {"visual.trunk.norm", "vision_model.post_layernorm"},
                                       {"visual.trunk.attn_pool.latent", "vision_model.head.probe"},
                                       {"visual.trunk.attn_pool.proj", "vision_model.head.attention.out_proj"},
                                       {"visual.trunk.attn_pool.norm", "vision_model.head.layernorm"},
                                       {"visual.trunk.attn_pool.mlp", "vision_model.head.mlp"},
                                       {"text.transformer.resblocks.", "text_model.encoder.layers."},
                                       {"text.positional_embedding", "text_model.embeddings.position_embedding.weight"},
                                       {"text.token_embedding", "text_model.embeddings.token_embedding"},
                                       {"text.ln_final", "text_model.final_layer_norm"},
                                       {"text.text_projection", "text_model.head"},
                                       {"ln_1", "layer_norm1"},
                                       {"ln_2", "layer_norm2"},
                                       {".norm1", ".layer_norm1"},
                                       {".norm2", ".layer_norm2"},
                                       {"mlp.c_fc", "mlp.fc1"},
                                       {"mlp.c_proj", "mlp.fc2"},
                                       {".attn.out_proj", ".self_attn.out_proj"},
                                       {".attn.proj", ".self_attn.out_proj"}});
    const std::size_t fused = std::min(ours.find(".attn.qkv."), ours.find(".attn.weight"));
    const std::size_t at = std::min(fused, ours.find(".attn.bias"));
    if (at == std::string::npos) {
      gradients.emplace(ours, ours.ends_with("position_embedding.weight") && tensor.rank() == 3
                                  ? tensor.reshape(tensor.shape().without(0))
                                  : tensor);
      continue;
    }
    for (std::int64_t i = 0; i < 3; ++i) {
      gradients.emplace(ours.substr(0, at) + ".self_attn." + "qkv"[i] + "_proj." + kind, rows_of(tensor, i));
    }
  }
  return gradients;
}

/// The gradients of a file, by the names of transformers' CLIP also where it is OpenCLIP's.
std::map<std::string, Tensor> gradients_of(const SafetensorsFile& file, bool is_open_clip) {
  if (file.tensors.contains("gradient.visual.trunk.pos_embed")) return gradients_with_timm(file);
  std::map<std::string, Tensor> gradients;
  for (const auto& [key, tensor] : file.tensors) {
    constexpr std::string_view kBefore = "gradient.";
    if (!key.starts_with(kBefore)) continue;
    const std::string name = key.substr(kBefore.size());
    if (!is_open_clip) {
      gradients.emplace(name, tensor);
      continue;
    }
    const bool is_vision = name.starts_with("visual.");
    const std::string tower = is_vision ? "vision_model." : "text_model.";
    const std::string within = is_vision ? name.substr(7) : name;
    if (within == "logit_scale") gradients.emplace(within, tensor);
    else if (within == "proj") gradients.emplace("visual_projection.weight", transposed_matrix(tensor));
    else if (within == "text_projection") gradients.emplace("text_projection.weight", transposed_matrix(tensor));
    else if (const std::size_t at = within.find("attn.in_proj_"); at != std::string::npos) {
      const std::string before = replaced(within.substr(0, at), {{"transformer.resblocks", "encoder.layers"}});
      const std::string kind = within.substr(at + std::string("attn.in_proj_").size());
      for (std::int64_t i = 0; i < 3; ++i) {
        gradients.emplace(tower + before + "self_attn." + "qkv"[i] + "_proj." + kind, rows_of(tensor, i));
      }
    } else {
      gradients.emplace(tower + replaced(within, {{"transformer.resblocks", "encoder.layers"},
                                                  {"attn.out_proj", "self_attn.out_proj"},
                                                  {"ln_1", "layer_norm1"},
                                                  {"ln_2", "layer_norm2"},
                                                  {"mlp.c_fc", "mlp.fc1"},
                                                  {"mlp.c_proj", "mlp.fc2"},
                                                  {"ln_final", "final_layer_norm"},
                                                  {"ln_pre", "pre_layrnorm"},
                                                  {"ln_post", "post_layernorm"},
                                                  {"conv1", "embeddings.patch_embedding"},
                                                  {"class_embedding", "embeddings.class_embedding"},
                                                  {"token_embedding", "embeddings.token_embedding"},
                                                  {"positional_embedding", "embeddings.position_embedding.weight"}}),
                        tensor);
    }
  }
  return gradients;
}

double largest(const Tensor& tensor) {
  double most = 0;
  for (const double value : doubles(tensor)) most = std::fmax(most, std::abs(value));
  return most;
}

/// The largest difference of two gradients over the largest element of theirs; below a hundredth of the largest of all,
/// where rounding is most of it (a key's bias has none but that), over that.
double gradient_difference(const Tensor& ours, const Tensor& theirs, double largest_of_all) {
  const std::vector<double> a = doubles(ours), b = doubles(theirs);
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::fmax(worst, std::abs(a[i] - b[i]));
  return worst / std::fmax(largest(theirs), largest_of_all / 100);
}

void check_outputs(const ReferenceResults& results, const SafetensorsFile& file, double tolerance) {
  for (const auto& [name, ours] : {std::pair("output.texts", results.texts), std::pair("output.images", results.images),
                                   std::pair("output.logits", results.logits)}) {
    BOOST_REQUIRE_EQUAL(file.tensors.contains(name), ours.defined());
    if (!ours.defined()) continue;
    BOOST_REQUIRE_EQUAL(to_string(ours.shape()), to_string(file.tensors.at(name).shape()));
    BOOST_TEST(max_difference(ours.value(), file.tensors.at(name)) <= tolerance);
  }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(references)

BOOST_AUTO_TEST_CASE(representations) {
  for (const ReferenceCase& of : reference_cases()) {
    const SafetensorsFile file = of.reference();
    for (const auto& [dtype, tolerance] :
         {std::pair(DType::kFloat32, 1e-5), std::pair(DType::kFloat64, of.float64_tolerance)}) {
      BOOST_TEST_CONTEXT(of.name << " " << name(dtype)) {
        check_outputs(ReferenceResults(of.load(dtype), ReferenceInputs(file, dtype)), file, tolerance);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(every_gradient) {
  for (const ReferenceCase& of : reference_cases()) {
    BOOST_TEST_CONTEXT(of.name) {
      const SafetensorsFile file = of.reference();
      const Pretrained model = of.load();
      Tape tape;
      Variable loss;
      {
        const Recording recording(tape);
        loss = ReferenceResults(model, ReferenceInputs(file, DType::kFloat32)).loss;
      }
      tape.backward(loss);
      BOOST_TEST(max_difference(loss.value(), file.tensors.at("loss")) <= 1e-5);
      const auto gradients = gradients_of(file, model.info().architecture == "open_clip");
      double most = 0;
      for (const auto& [name, gradient] : gradients) most = std::fmax(most, largest(gradient));
      std::size_t found = 0;
      for (const Parameter& p : model.parameters()) {
        BOOST_TEST_CONTEXT(p.name()) {
          const auto theirs = gradients.find(p.name());
          BOOST_REQUIRE(theirs != gradients.end());
          BOOST_REQUIRE(p.gradient().defined());
          BOOST_TEST(gradient_difference(p.gradient(), theirs->second, most) <= 1e-4);
          ++found;
        }
      }
      BOOST_TEST(found == gradients.size());
    }
  }
}

BOOST_AUTO_TEST_CASE(twenty_steps_of_adamw) {
  for (const ReferenceCase& of : reference_cases()) {
    BOOST_TEST_CONTEXT(of.name) {
      const SafetensorsFile file = of.reference();
      const Pretrained model = of.load();
      train::AdamW adam(model.parameters());
      std::vector<double> losses;
      for (std::int64_t step = 0; step < file.tensors.at("losses").size(0); ++step) {
        adam.clear_gradients();
        Tape tape;
        Variable loss;
        {
          const Recording recording(tape);
          loss = ReferenceResults(model, ReferenceInputs(file, DType::kFloat32)).loss;
        }
        tape.backward(loss);
        losses.push_back(loss.value().item());
        adam.step(1e-3);
      }
      BOOST_TEST(max_difference(losses, doubles(file.tensors.at("losses"))) <= 1e-4);
      BOOST_TEST(losses.back() < losses.front());
    }
  }
}

BOOST_AUTO_TEST_CASE(every_linear_layer_reads_its_adapter) {
  for (const ReferenceCase& of : reference_cases()) {
    BOOST_TEST_CONTEXT(of.name) {
      const ReferenceInputs inputs(of.reference(), DType::kFloat64);
      const Pretrained model = of.load(DType::kFloat64);
      const double before = ReferenceResults(model, inputs).loss.value().item();
      const Lora lora = add_lora(model, {.rank = 2});
      std::uint64_t seed = 0;
      for (Parameter p : lora.parameters()) p.assign(random_values(p.value().shape(), ++seed));
      const double apart = ReferenceResults(model, inputs).loss.value().item();
      lora.merge();
      BOOST_TEST(std::abs(ReferenceResults(model, inputs).loss.value().item() - apart) <= 1e-9);
      BOOST_TEST(std::abs(apart - before) > 1e-9);
      lora.unmerge();
      Tape tape;
      Variable loss;
      {
        const Recording recording(tape);
        loss = ReferenceResults(model, inputs).loss;
      }
      tape.backward(loss);
      for (const Parameter& p : lora.parameters()) BOOST_TEST(p.gradient().defined(), p.name() << " takes no part");
    }
  }
}

BOOST_AUTO_TEST_CASE(adapters_that_peft_made) {
  const std::filesystem::path folder = ReferenceCase{"bert_mean"}.folder();
  const SafetensorsFile file = read_safetensors(folder / "lora" / "reference.safetensors");
  const ReferenceInputs inputs(file, DType::kFloat32);
  const Pretrained model = load_pretrained(folder);
  const Lora lora = load_lora(folder / "lora", model);
  BOOST_TEST(Lora::base_of(folder / "lora") == "..");
  const auto loss_of = [&] {
    for (Parameter p : lora.parameters()) p.clear_gradient();
    Tape tape;
    Variable loss;
    {
      const Recording recording(tape);
      loss = ReferenceResults(model, inputs).loss;
    }
    tape.backward(loss);
    return loss.value();
  };
  check_outputs(ReferenceResults(model, inputs), file, 1e-5);
  BOOST_TEST(max_difference(loss_of(), file.tensors.at("loss")) <= 1e-5);
  const auto gradients = gradients_of(file, false);
  double most = 0;
  for (const auto& [name, gradient] : gradients) most = std::fmax(most, largest(gradient));
  BOOST_TEST(gradients.size() == lora.parameters().size());
  for (const Parameter& p : lora.parameters()) {
    BOOST_TEST_CONTEXT(p.name()) {
      BOOST_REQUIRE(gradients.contains(p.name()));
      BOOST_TEST(gradient_difference(p.gradient(), gradients.at(p.name()), most) <= 1e-4);
    }
  }
  // It is saved by itself, and with the model as one.
  const Folder saved;
  save_lora(saved / "adapter", lora, folder.string());
  BOOST_CHECK_EXCEPTION(save_pretrained(saved / "merged", model), ValueError, says({"has an adapter", "merged"}));
  lora.merge();
  save_pretrained(saved / "merged", model);
  lora.unmerge();
  check_outputs(ReferenceResults(load_pretrained(saved / "merged"), inputs), file, 1e-5);
  const Pretrained again = load_pretrained(Lora::base_of(saved / "adapter"));
  load_lora(saved / "adapter", again);
  BOOST_TEST(same_bits(ReferenceResults(again, inputs).texts.value(), ReferenceResults(model, inputs).texts.value()));

  train::AdamW adam(lora.parameters());
  std::vector<double> losses;
  for (std::int64_t step = 0; step < file.tensors.at("losses").size(0); ++step) {
    losses.push_back(loss_of().item());
    adam.step(1e-3);
  }
  BOOST_TEST(max_difference(losses, doubles(file.tensors.at("losses"))) <= 1e-4);
  BOOST_TEST(losses.back() < losses.front());
}

/// PEFT adapts the projections of SigLIP's pooling together, and adds the last one's adapter twice; that projection's
/// own it writes and does not read.
BOOST_AUTO_TEST_CASE(adapters_of_the_attention_that_pools) {
  const ReferenceCase of{"siglip"};
  const ReferenceInputs inputs(of.reference(), DType::kFloat32);
  const Pretrained model = of.load(), again = of.load();
  const Lora lora = add_lora(model, {.rank = 2, .targets = {"all-linear"}});
  for (const std::string& name : lora.layers()) BOOST_TEST(name.find("head.attention") == std::string::npos, name);
  std::uint64_t seed = 0;
  for (Parameter p : lora.parameters()) p.assign(random_values(p.value().shape(), ++seed).to(DType::kFloat32));
  const Folder folder;
  save_lora(folder / "adapter", lora);
  const std::filesystem::path path = folder / "adapter" / "adapter_model.safetensors";
  SafetensorsFile file = read_safetensors(path);
  const auto add = [&](const std::string& layer, std::int64_t rows) {
    const std::string name = "base_model.model.vision_model.head." + layer;
    file.tensors.emplace(name + ".lora_A.weight", random_values({2, 24}, ++seed).to(DType::kFloat32));
    file.tensors.emplace(name + ".lora_B.weight", random_values({rows, 2}, ++seed).to(DType::kFloat32));
    write_safetensors(path, file);
  };
  add("attention.out_proj", 24);
  load_lora(folder / "adapter", again);
  BOOST_TEST(same_bits(ReferenceResults(again, inputs).images.value(), ReferenceResults(model, inputs).images.value()));
  add("attention", 72);
  BOOST_CHECK_EXCEPTION(load_lora(folder / "adapter", of.load()), FileError,
                        says({"adapts 'vision_model.head.attention'", "no such linear layer"}));
  BOOST_CHECK_EXCEPTION(add_lora(of.load(), {.targets = {"head.attention.out_proj"}}), ValueError,
                        says({"head.attention.out_proj", "no linear layer"}));
}

BOOST_AUTO_TEST_CASE(saved_folders_load_again_to_the_same_bits) {
  for (const ReferenceCase& of : reference_cases()) {
    BOOST_TEST_CONTEXT(of.name) {
      const Folder folder;
      const SafetensorsFile file = of.reference();
      const ReferenceInputs inputs(file, DType::kFloat32);
      const Pretrained model = of.load();
      save_pretrained(folder / "saved", model);
      const Pretrained again = load_pretrained(folder / "saved", of.options);
      const ReferenceResults before(model, inputs), after(again, inputs);
      BOOST_TEST(same_bits(before.loss.value(), after.loss.value()));
      if (before.texts.defined()) BOOST_TEST(same_bits(before.texts.value(), after.texts.value()));
      if (before.images.defined()) BOOST_TEST(same_bits(before.images.value(), after.images.value()));
      BOOST_TEST(again.info().labels == model.info().labels);
      BOOST_TEST(again.info().pooling == model.info().pooling);
      BOOST_TEST(again.info().normalized == model.info().normalized);
      BOOST_TEST(again.info().width == model.info().width);
      BOOST_TEST(again.info().prompts == model.info().prompts);
      // Nothing is left beside it, and it can be written over.
      BOOST_TEST(folder.entries() == 1);
      save_pretrained(folder / "saved", again);
      BOOST_TEST(folder.entries() == 1);
      load_pretrained(folder / "saved", of.options);
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
