#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "folder.h"
#include "model_checks.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/device.h"
#include "tapecache/core/error.h"
#include "tapecache/core/files.h"
#include "tapecache/models/clip.h"
#include "tapecache/models/layers.h"
#include "tapecache/models/pretrained.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

BOOST_AUTO_TEST_SUITE(model_weights)

BOOST_AUTO_TEST_CASE(parameters_are_named_as_in_hugging_face_checkpoints) {
  // CLIPModel.state_dict() of transformers, for vision width 8, text width 12 and a projection of 5.
  const std::map<std::string, Shape> expected{
      {"logit_scale", {}},
      {"text_model.embeddings.token_embedding.weight", {11, 12}},
      {"text_model.embeddings.position_embedding.weight", {6, 12}},
      {"text_model.encoder.layers.0.self_attn.k_proj.weight", {12, 12}},
      {"text_model.encoder.layers.0.self_attn.k_proj.bias", {12}},
      {"text_model.encoder.layers.0.self_attn.v_proj.weight", {12, 12}},
      {"text_model.encoder.layers.0.self_attn.v_proj.bias", {12}},
      {"text_model.encoder.layers.0.self_attn.q_proj.weight", {12, 12}},
      {"text_model.encoder.layers.0.self_attn.q_proj.bias", {12}},
      {"text_model.encoder.layers.0.self_attn.out_proj.weight", {12, 12}},
      {"text_model.encoder.layers.0.self_attn.out_proj.bias", {12}},
      {"text_model.encoder.layers.0.layer_norm1.weight", {12}},
      {"text_model.encoder.layers.0.layer_norm1.bias", {12}},
      {"text_model.encoder.layers.0.mlp.fc1.weight", {20, 12}},
      {"text_model.encoder.layers.0.mlp.fc1.bias", {20}},
      {"text_model.encoder.layers.0.mlp.fc2.weight", {12, 20}},
      {"text_model.encoder.layers.0.mlp.fc2.bias", {12}},
      {"text_model.encoder.layers.0.layer_norm2.weight", {12}},
      {"text_model.encoder.layers.0.layer_norm2.bias", {12}},
      {"text_model.encoder.layers.1.self_attn.k_proj.weight", {12, 12}},
      {"text_model.encoder.layers.1.self_attn.k_proj.bias", {12}},
      {"text_model.encoder.layers.1.self_attn.v_proj.weight", {12, 12}},
      {"text_model.encoder.layers.1.self_attn.v_proj.bias", {12}},
      {"text_model.encoder.layers.1.self_attn.q_proj.weight", {12, 12}},
      {"text_model.encoder.layers.1.self_attn.q_proj.bias", {12}},
      {"text_model.encoder.layers.1.self_attn.out_proj.weight", {12, 12}},
      {"text_model.encoder.layers.1.self_attn.out_proj.bias", {12}},
      {"text_model.encoder.layers.1.layer_norm1.weight", {12}},
      {"text_model.encoder.layers.1.layer_norm1.bias", {12}},
      {"text_model.encoder.layers.1.mlp.fc1.weight", {20, 12}},
      {"text_model.encoder.layers.1.mlp.fc1.bias", {20}},
      {"text_model.encoder.layers.1.mlp.fc2.weight", {12, 20}},
      {"text_model.encoder.layers.1.mlp.fc2.bias", {12}},
      {"text_model.encoder.layers.1.layer_norm2.weight", {12}},
      {"text_model.encoder.layers.1.layer_norm2.bias", {12}},
      {"text_model.final_layer_norm.weight", {12}},
      {"text_model.final_layer_norm.bias", {12}},
      {"vision_model.embeddings.class_embedding", {8}},
      {"vision_model.embeddings.patch_embedding.weight", {8, 3, 4, 4}},
      {"vision_model.embeddings.position_embedding.weight", {5, 8}},
      {"vision_model.pre_layrnorm.weight", {8}},
      {"vision_model.pre_layrnorm.bias", {8}},
      {"vision_model.encoder.layers.0.self_attn.k_proj.weight", {8, 8}},
      {"vision_model.encoder.layers.0.self_attn.k_proj.bias", {8}},
      {"vision_model.encoder.layers.0.self_attn.v_proj.weight", {8, 8}},
      {"vision_model.encoder.layers.0.self_attn.v_proj.bias", {8}},
      {"vision_model.encoder.layers.0.self_attn.q_proj.weight", {8, 8}},
      {"vision_model.encoder.layers.0.self_attn.q_proj.bias", {8}},
      {"vision_model.encoder.layers.0.self_attn.out_proj.weight", {8, 8}},
      {"vision_model.encoder.layers.0.self_attn.out_proj.bias", {8}},
      {"vision_model.encoder.layers.0.layer_norm1.weight", {8}},
      {"vision_model.encoder.layers.0.layer_norm1.bias", {8}},
      {"vision_model.encoder.layers.0.mlp.fc1.weight", {16, 8}},
      {"vision_model.encoder.layers.0.mlp.fc1.bias", {16}},
      {"vision_model.encoder.layers.0.mlp.fc2.weight", {8, 16}},
      {"vision_model.encoder.layers.0.mlp.fc2.bias", {8}},
      {"vision_model.encoder.layers.0.layer_norm2.weight", {8}},
      {"vision_model.encoder.layers.0.layer_norm2.bias", {8}},
      {"vision_model.encoder.layers.1.self_attn.k_proj.weight", {8, 8}},
      {"vision_model.encoder.layers.1.self_attn.k_proj.bias", {8}},
      {"vision_model.encoder.layers.1.self_attn.v_proj.weight", {8, 8}},
      {"vision_model.encoder.layers.1.self_attn.v_proj.bias", {8}},
      {"vision_model.encoder.layers.1.self_attn.q_proj.weight", {8, 8}},
      {"vision_model.encoder.layers.1.self_attn.q_proj.bias", {8}},
      {"vision_model.encoder.layers.1.self_attn.out_proj.weight", {8, 8}},
      {"vision_model.encoder.layers.1.self_attn.out_proj.bias", {8}},
      {"vision_model.encoder.layers.1.layer_norm1.weight", {8}},
      {"vision_model.encoder.layers.1.layer_norm1.bias", {8}},
      {"vision_model.encoder.layers.1.mlp.fc1.weight", {16, 8}},
      {"vision_model.encoder.layers.1.mlp.fc1.bias", {16}},
      {"vision_model.encoder.layers.1.mlp.fc2.weight", {8, 16}},
      {"vision_model.encoder.layers.1.mlp.fc2.bias", {8}},
      {"vision_model.encoder.layers.1.layer_norm2.weight", {8}},
      {"vision_model.encoder.layers.1.layer_norm2.bias", {8}},
      {"vision_model.post_layernorm.weight", {8}},
      {"vision_model.post_layernorm.bias", {8}},
      {"visual_projection.weight", {5, 8}},
      {"text_projection.weight", {5, 12}},
  };
  const Clip clip(small_clip(), 1);
  check_names(clip.parameters(), expected);
}

BOOST_AUTO_TEST_CASE(weights_come_back_from_their_file) {
  const Folder folder;
  for (const DType written : {DType::kFloat32, DType::kFloat64}) {
    for (const DType read : {DType::kFloat32, DType::kFloat64}) {
      const Clip from(small_clip(), 11, written), to(small_clip(), 12, read);
      shake(from.parameters(), 800);
      const Parameter handle = to.parameters()[3];
      save_weights(folder / "weights.safetensors", from.parameters());
      load_weights(folder / "weights.safetensors", to.parameters());
      for (std::size_t i = 0; i < from.parameters().size(); ++i) {
        const Tensor expected = from.parameters()[i].value().to(read);
        BOOST_TEST(same_bits(to.parameters()[i].value(), expected), from.parameters()[i].name());
        BOOST_TEST(!to.parameters()[i].value().shares_storage(from.parameters()[i].value()));
      }
      BOOST_TEST(same_bits(handle.value(), to.parameters()[3].value()));
      if (read == written) {
        const Tensor images = small_images(2, read);
        BOOST_TEST(same_bits(values_of([&] { return from.encode_image(images); }),
                             values_of([&] { return to.encode_image(images); })));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(weights_load_from_bfloat16) {
  const Folder folder;
  const Clip clip(small_clip(), 11);
  SafetensorsFile file;
  for (const Parameter& p : clip.parameters()) file.tensors.emplace(p.name(), p.value().to(DType::kBFloat16));
  write_safetensors(folder / "bf16.safetensors", file);
  load_weights(folder / "bf16.safetensors", clip.parameters());
  for (const Parameter& p : clip.parameters()) {
    BOOST_TEST(same_bits(p.value(), file.tensors.at(p.name()).to(DType::kFloat32)), p.name());
  }
}

BOOST_AUTO_TEST_CASE(weights_that_do_not_fit_change_nothing) {
  const Folder folder;
  const Clip clip(small_clip(), 13), other(small_clip(), 14);
  const auto before = values_by_name(clip.parameters());
  const std::string path = (folder / "w.safetensors").string();
  const auto refused = [&](const std::vector<std::string>& words, bool strict = true) {
    std::vector<std::string> all = words;
    all.push_back(path);
    BOOST_CHECK_EXCEPTION(load_weights(path, clip.parameters(), {.strict = strict}), FileError, says(all));
    BOOST_TEST(same_values(clip.parameters(), before));
  };
  const auto write = [&](const std::function<void(SafetensorsFile&)>& change) {
    SafetensorsFile file;
    for (const Parameter& p : other.parameters()) file.tensors.emplace(p.name(), p.value().clone());
    change(file);
    write_safetensors(path, file);
  };
  const std::string last = "vision_model.post_layernorm.weight", bias = "text_model.final_layer_norm.bias";

  refused({"open"});
  write([&](auto& file) { file.tensors.erase(last), file.tensors.erase(bias); });
  refused({last, bias, "missing"});
  refused({last, bias, "missing"}, false);
  write([&](auto& file) { file.tensors.emplace("surplus", Tensor::zeros({2})); });
  refused({"'surplus'"});
  write([&](auto& file) { file.tensors[last] = Tensor::zeros({2, 4}); });
  refused({last, "[2, 4]", "[8]"});
  refused({last, "[2, 4]", "[8]"}, false);
  write([&](auto& file) { file.tensors[last] = Tensor::zeros({8}, DType::kInt64); });
  refused({last, "int64", "floating"});

  write([](auto&) {});
  std::string bytes;
  {
    std::ifstream in(path, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(in), {});
  }
  BOOST_TEST(bytes.size() > 10000u);
  for (const std::size_t length :
       {std::size_t{0}, std::size_t{7}, std::size_t{8}, std::size_t{100}, bytes.size() / 2, bytes.size() - 1}) {
    BOOST_TEST_CONTEXT("first " << length << " bytes") {
      std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(length));
      refused({});
    }
  }
}

BOOST_AUTO_TEST_CASE(surplus_tensors_are_passed_over_where_asked_to) {
  const Folder folder;
  const Clip clip(small_clip(), 13), other(small_clip(), 14);
  SafetensorsFile file = file_of(other.parameters());
  file.tensors.emplace("text_model.surplus", Tensor::zeros({1, 6}));
  write_safetensors(folder / "w.safetensors", file);
  BOOST_CHECK_EXCEPTION(load_weights(folder / "w.safetensors", clip.parameters()), FileError, says({"surplus"}));
  load_weights(folder / "w.safetensors", clip.parameters(), {.strict = false});
  BOOST_TEST(same_values(clip.parameters(), values_by_name(other.parameters())));
}

BOOST_AUTO_TEST_CASE(only_what_is_asked_for_is_read) {
  const Folder folder;
  Builder builder(1);
  builder.parameter("a", {1 << 18}, Init::constant(1));
  builder.parameter("b", {1 << 18}, Init::constant(1));
  const auto peak_of_loading = [&](const Builder& model, const LoadOptions& options) {
    const std::size_t before = allocator().stats().current;
    const PeakMeter meter;
    load_weights(folder / "w", model, options);
    return meter.peak() - before;
  };
  constexpr std::size_t kModel = 2 << 20;
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16, DType::kFloat32, DType::kFloat64}) {
    SafetensorsFile file;
    for (const char* name : {"a", "b"}) file.tensors.emplace(name, Tensor::full({1 << 18}, 2, dtype));
    write_safetensors(folder / "w", file);
    file.tensors.clear();
    BOOST_TEST(peak_of_loading(builder, {}) <= kModel * 11 / 10);  // beside the model itself
    BOOST_TEST(builder.parameters()[1].value().slice(7, 8).item() == 2);
  }
  SafetensorsFile file;
  file.tensors = {{"model.a", Tensor::zeros({1})}, {"optimizer.m", Tensor::zeros({1 << 18})}};
  write_safetensors(folder / "w", file);
  Builder small(1);
  small.parameter("a", {1}, Init::constant(1));
  BOOST_TEST(peak_of_loading(small, {.prefix = "model."}) <= 1024u);
  BOOST_TEST(small.parameters()[0].value().item() == 0);
}

BOOST_AUTO_TEST_CASE(types_that_are_not_asked_for_do_not_matter) {
  const Folder folder;
  const std::vector<Parameter> own{{"w", Tensor::zeros({1})}};
  std::string header = R"({"bert.w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                       R"("x":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[4,8]},)"
                       R"("bert.q":{"dtype":"U16","shape":[2],"data_offsets":[8,12]}})";
  const std::uint64_t size = header.size();
  const std::string one("\0\0\x80\x3f", 4);
  put(folder / "w", std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + header + one + one + one);
  load_weights(folder / "w", own, {.strict = false, .prefix = "bert."});
  check_equal(own[0].value(), {1});
  BOOST_CHECK_EXCEPTION(load_weights(folder / "w", own, {.prefix = "bert."}), FileError,
                        says({"'bert.q' belongs to no"}));
  const std::vector<Parameter> eight{{"x", Tensor::zeros({4})}};
  BOOST_CHECK_EXCEPTION(load_weights(folder / "w", eight, {.strict = false}), FileError,
                        says({"'x' is F8_E4M3, expected a floating type"}));
}

BOOST_AUTO_TEST_CASE(files_say_that_they_are_of_weights) {
  const Folder folder;
  save_weights(folder / "w", std::vector<Parameter>{{"w", Tensor::zeros({1})}});
  BOOST_TEST(read_safetensors(folder / "w").metadata.at("format") == "pt");
}

BOOST_AUTO_TEST_CASE(weights_behind_a_prefix) {
  const Folder folder;
  const Clip clip(small_clip(), 13), other(small_clip(), 14);
  const auto before = values_by_name(clip.parameters());
  SafetensorsFile file = file_of(other.parameters(), "clip.");
  file.tensors.emplace("head.weight", Tensor::zeros({3}));
  write_safetensors(folder / "w", file);
  BOOST_CHECK_EXCEPTION(load_weights(folder / "w", clip.parameters()), FileError,
                        says({"is missing", "prefix \"clip.\""}));
  BOOST_TEST(same_values(clip.parameters(), before));
  load_weights(folder / "w", clip.parameters(), {.prefix = "clip."});
  BOOST_TEST(same_values(clip.parameters(), values_by_name(other.parameters())));
  // Strictness is about what stands behind the prefix.
  file.tensors.emplace("clip.surplus", Tensor::zeros({3}));
  write_safetensors(folder / "w", file);
  BOOST_CHECK_EXCEPTION(load_weights(folder / "w", clip.parameters(), {.prefix = "clip."}), FileError,
                        says({"'clip.surplus'"}));
  write_safetensors(folder / "plain", file_of(other.parameters()));
  BOOST_CHECK_EXCEPTION(load_weights(folder / "plain", clip.parameters(), {.prefix = "model."}), FileError,
                        says({"prefix \"\""}));
  // Where only some are there, no prefix would help.
  file.tensors.erase("clip.logit_scale");
  write_safetensors(folder / "w", file);
  BOOST_CHECK_EXCEPTION(load_weights(folder / "w", clip.parameters()), FileError, [](const FileError& e) {
    return std::string(e.what()).find("LoadOptions") == std::string::npos;
  });
}

BOOST_AUTO_TEST_CASE(long_lists_of_names_are_cut) {
  const Folder folder;
  const Clip clip(small_clip(), 13);
  SafetensorsFile file;
  for (int i = 0; i < 30; ++i) file.tensors.emplace("other." + std::to_string(i), Tensor::zeros({1}));
  write_safetensors(folder / "w", file);
  const std::string missing = std::to_string(clip.parameters().size() - 8);
  BOOST_CHECK_EXCEPTION(load_weights(folder / "w", clip.parameters()), FileError,
                        says({"and " + missing + " more are missing", "and 22 more belong to none"}));
  BOOST_CHECK_EXCEPTION(load_weights(folder / "w", clip.parameters()), FileError,
                        [](const FileError& e) { return std::string(e.what()).size() < 2000; });
}

BOOST_AUTO_TEST_CASE(weights_that_are_not_finite) {
  const Folder folder;
  const Clip clip(small_clip(), 13), other(small_clip(), 14);
  const auto before = values_by_name(clip.parameters());
  const std::string bias = "text_model.final_layer_norm.bias";
  SafetensorsFile file = file_of(other.parameters());
  file.tensors[bias].mutable_data<float>()[3] = std::numeric_limits<float>::quiet_NaN();
  file.tensors[bias].mutable_data<float>()[7] = std::numeric_limits<float>::infinity();
  write_safetensors(folder / "w", file);
  BOOST_CHECK_EXCEPTION(load_weights(folder / "w", clip.parameters()), FileError,
                        says({bias, "2 NaN or Inf among 12 values", "the first at 3"}));
  BOOST_TEST(same_values(clip.parameters(), before));
  load_weights(folder / "w", clip.parameters(), {.allow_non_finite = true});
  BOOST_TEST(same_bits(named(clip.parameters(), bias).value(), file.tensors[bias]));
  // A value that only the parameter's type cannot hold.
  file = file_of(other.parameters());
  file.tensors[bias] = Tensor::full({12}, 1e300, DType::kFloat64);
  write_safetensors(folder / "w", file);
  BOOST_CHECK_EXCEPTION(load_weights(folder / "w", clip.parameters()), FileError, says({bias, "12 NaN or Inf"}));
}

BOOST_AUTO_TEST_CASE(parameters_of_half_precision_that_would_not_be_finite) {
  const Folder folder;
  SafetensorsFile file;
  file.tensors.emplace("w", Tensor::from<double>({1, std::numeric_limits<double>::quiet_NaN(), 1e300}, {3}));
  write_safetensors(folder / "w", file);
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16, DType::kFloat32}) {
    const std::vector<Parameter> own{{"w", Tensor::zeros({3}, dtype)}};
    BOOST_CHECK_EXCEPTION(load_weights(folder / "w", own), FileError,
                          says({"'w' has 2 NaN or Inf among 3 values", "the first at 1"}));
    BOOST_TEST(same_bits(own[0].value(), Tensor::zeros({3}, dtype)));
  }
}

BOOST_AUTO_TEST_CASE(messages_name_tensors_as_the_file_does) {
  const Folder folder;
  const std::vector<Parameter> own{
      {"a", Tensor::zeros({2})}, {"b", Tensor::zeros({2})}, {"c", Tensor::zeros({2})}, {"d", Tensor::zeros({2})}};
  SafetensorsFile file;
  file.tensors.emplace("model.b", Tensor::zeros({3}));
  file.tensors.emplace("model.c", Tensor::zeros({2}, DType::kInt64));
  file.tensors.emplace("model.d", Tensor::full({2}, std::numeric_limits<double>::infinity()));
  write_safetensors(folder / "w", file);
  BOOST_CHECK_EXCEPTION(load_weights(folder / "w", own, {.prefix = "model."}), FileError,
                        says({"'model.a' is missing", "'model.b' has shape [3], expected [2]", "'model.c' is int64",
                              "'model.d' has 2 NaN or Inf"}));
}

BOOST_AUTO_TEST_CASE(a_model_shares_its_list_with_a_head) {
  const Folder folder;
  const Builder builder(21);
  const Clip clip(builder.child("clip"), small_clip());
  const Linear head(builder.child("head"), 5, 2, Init::normal(1));
  const Clip alone(small_clip(), 22);
  BOOST_TEST(builder.parameters().size() == alone.parameters().size() + 2);
  BOOST_TEST(clip.builder().prefix() == "clip");
  const Tensor kept = head.weight.value().clone();
  save_weights(folder / "alone", alone.builder());
  load_weights(folder / "alone", clip.builder());
  const Tensor images = small_images(2, DType::kFloat32);
  BOOST_TEST(same_bits(values_of([&] { return clip.encode_image(images); }),
                       values_of([&] { return alone.encode_image(images); })));
  BOOST_TEST(same_bits(head.weight.value(), kept));
  save_weights(folder / "part", clip.builder());
  BOOST_TEST((contents(folder / "part") == contents(folder / "alone")));
  save_weights(folder / "all", builder);
  BOOST_CHECK_EXCEPTION(load_weights(folder / "all", alone.builder()), FileError, says({"prefix \"clip.\""}));
}

BOOST_AUTO_TEST_CASE(two_parameters_of_one_name_are_not_saved) {
  const Folder folder;
  const std::vector<Parameter> twins{{"w", Tensor::zeros({2})}, {"w", Tensor::zeros({2})}};
  BOOST_CHECK_EXCEPTION(save_weights(folder / "w.safetensors", twins), ValueError, says({"'w'"}));
  BOOST_TEST(!std::filesystem::exists(folder / "w.safetensors"));
}

BOOST_AUTO_TEST_SUITE_END()
