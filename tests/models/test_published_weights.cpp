// What published files hold beside weights, and how their names and shapes differ from a model's.

#include <vector>

#include "folder.h"
#include "model_checks.h"
#include "tapecache/core/error.h"
#include "tapecache/core/files.h"
#include "tapecache/models/clip.h"
#include "tapecache/models/layers.h"
#include "tapecache/models/pretrained.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

BOOST_AUTO_TEST_SUITE(published_weights)

BOOST_AUTO_TEST_CASE(position_ids_of_hugging_face_are_no_surplus) {
  const Folder folder;
  const Clip clip(small_clip(), 13), other(small_clip(), 14);
  SafetensorsFile file = file_of(other.parameters());
  file.tensors.emplace("text_model.embeddings.position_ids", Tensor::zeros({1, 6}, DType::kInt64));
  file.tensors.emplace("vision_model.embeddings.position_ids", Tensor::zeros({1, 5}, DType::kInt32));
  write_safetensors(folder / "w", file);
  load_weights(folder / "w", clip.parameters());
  BOOST_TEST(same_values(clip.parameters(), values_by_name(other.parameters())));
  file.tensors.emplace("learned.position_ids", Tensor::zeros({1, 5}));
  write_safetensors(folder / "w", file);
  BOOST_CHECK_EXCEPTION(load_weights(folder / "w", clip.parameters()), FileError, says({"'learned.position_ids'"}));
}

BOOST_AUTO_TEST_CASE(bookkeeping_of_other_libraries_is_no_surplus) {
  const Folder folder;
  const std::vector<Parameter> own{{"norm.weight", Tensor::zeros({2})}};
  SafetensorsFile file;
  file.tensors.emplace("norm.weight", Tensor::full({2}, 3));
  file.tensors.emplace("norm.num_batches_tracked", Tensor::full({}, 9, DType::kInt64));
  file.tensors.emplace("embeddings.token_type_ids", Tensor::zeros({1, 4}, DType::kInt64));
  file.tensors.emplace("attn.relative_position_index", Tensor::zeros({4, 4}, DType::kInt64));
  write_safetensors(folder / "w", file);
  load_weights(folder / "w", own);
  check_equal(own[0].value(), {3, 3});
  file.tensors.emplace("other_position_ids", Tensor::zeros({2}, DType::kInt64));
  write_safetensors(folder / "w", file);
  BOOST_CHECK_EXCEPTION(load_weights(folder / "w", own), FileError, says({"'other_position_ids' belongs to no"}));
}

BOOST_AUTO_TEST_CASE(norms_of_older_checkpoints) {
  const Folder folder;
  Builder builder(1);
  const LayerNorm norm(builder.child("output.LayerNorm"), 3);
  const Linear linear(builder.child("dense"), 2, 3, Init::normal(1));
  SafetensorsFile file;
  file.tensors.emplace("output.LayerNorm.gamma", random_values({3}, 1, DType::kFloat32));
  file.tensors.emplace("output.LayerNorm.beta", random_values({3}, 2, DType::kFloat32));
  file.tensors.emplace("dense.weight", random_values({3, 2}, 3, DType::kFloat32));
  file.tensors.emplace("dense.bias", random_values({3}, 4, DType::kFloat32));
  write_safetensors(folder / "w", file);
  load_weights(folder / "w", builder);
  BOOST_TEST(same_bits(norm.weight.value(), file.tensors.at("output.LayerNorm.gamma")));
  BOOST_TEST(same_bits(norm.bias.value(), file.tensors.at("output.LayerNorm.beta")));
  // The names of today come first, and a second one is surplus.
  file.tensors.emplace("output.LayerNorm.weight", Tensor::full({3}, 7));
  write_safetensors(folder / "w", file);
  BOOST_CHECK_EXCEPTION(load_weights(folder / "w", builder), FileError,
                        says({"'output.LayerNorm.gamma' belongs to no"}));
  load_weights(folder / "w", builder, {.strict = false});
  check_equal(norm.weight.value(), {7, 7, 7});
  // Only vectors are a norm's.
  file.tensors.emplace("dense.gamma", file.tensors.extract("dense.weight").mapped());
  write_safetensors(folder / "w", file);
  BOOST_CHECK_EXCEPTION(load_weights(folder / "w", builder, {.strict = false}), FileError,
                        says({"'dense.weight' is missing"}));
  // Of another shape they are refused by the name in the file.
  file.tensors.erase("output.LayerNorm.weight");
  file.tensors["output.LayerNorm.gamma"] = Tensor::zeros({4});
  write_safetensors(folder / "w", file);
  BOOST_CHECK_EXCEPTION(load_weights(folder / "w", builder, {.strict = false}), FileError,
                        says({"'output.LayerNorm.gamma' has shape [4], expected [3]"}));
}

BOOST_AUTO_TEST_CASE(a_single_number_is_stored_with_an_axis_or_without) {
  const Folder folder;
  const std::vector<Parameter> own{{"scale", Tensor::zeros({})}, {"bias", Tensor::zeros({1})}};
  SafetensorsFile file;
  file.tensors.emplace("scale", Tensor::full({1}, 2.5));
  file.tensors.emplace("bias", Tensor::full({}, -10));
  write_safetensors(folder / "w", file);
  load_weights(folder / "w", own);
  BOOST_TEST(own[0].value().item() == 2.5);
  BOOST_TEST(own[1].value().item() == -10);
  BOOST_TEST(own[0].value().rank() == 0);
  for (const Shape& shape : {Shape{2}, Shape{1, 1}, Shape{0}}) {
    file.tensors["scale"] = Tensor::zeros(shape);
    write_safetensors(folder / "w", file);
    BOOST_CHECK_EXCEPTION(load_weights(folder / "w", own), FileError,
                          says({"'scale' has shape " + to_string(shape), "[]"}));
  }
}

BOOST_AUTO_TEST_CASE(tied_weights_that_are_stored_once) {
  const Folder folder;
  const std::vector<Parameter> own{{"embeddings.weight", Tensor::zeros({2})}, {"head.weight", Tensor::zeros({2})}};
  SafetensorsFile file;
  file.tensors.emplace("model.embeddings.weight", vector_of({1, 2}));
  file.metadata = {{"model.head.weight", "model.embeddings.weight"}, {"format", "pt"}};
  write_safetensors(folder / "w", file);
  load_weights(folder / "w", own, {.prefix = "model."});
  for (const Parameter& p : own) check_equal(p.value(), {1, 2});
  file.metadata["model.head.weight"] = "model.absent";
  write_safetensors(folder / "w", file);
  BOOST_CHECK_EXCEPTION(load_weights(folder / "w", own, {.prefix = "model."}), FileError,
                        says({"'model.head.weight' is missing"}));
}

BOOST_AUTO_TEST_SUITE_END()
