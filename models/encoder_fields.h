#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "tapecache/core/json_fields.h"
#include "tapecache/models/pretrained_parts.h"
#include "tapecache/models/transformer_block.h"

#pragma GCC visibility push(hidden)

namespace tapecache::models::detail {

using ops::Activation;

/// What the fields of transformers that all encoders share say, where they are given, beside `encoder`. Sizes that the
/// files cannot hold are refused: more layers than tensors, and heads that do not divide the width.
TransformerConfig read_encoder(const JsonFields& fields, const FamilySource& source, TransformerConfig encoder);

/// A divisor of hidden_size, unless heads have a width of their own; layers that the files can hold.
void check_heads(const JsonFields& fields, std::int64_t width, std::int64_t heads);
void check_layers(const JsonFields& fields, const FamilySource& source, std::int64_t layers);

/// The activation of a field, and what is refused where there is none of that name.
ops::Activation read_activation(const JsonFields& fields, std::string_view name, ops::Activation otherwise);

/// What the names of the encoder begin with in the files, "bert." or "model." where it was saved with a head beside it,
/// `words` being the name of its table of token embeddings.
std::string prefix_in(const WeightFiles& files, std::string_view words);

/// Refuses what changes the result of any model of transformers and is not supported: code of the folder's own, and
/// quantised weights.
void refuse_foreign_code(const JsonFields& fields);

/// Notes dropout of attention weights, which is not drawn here.
void note_attention_dropout(const JsonFields& fields, const char* field, Pretrained::Info& info);

}  // namespace tapecache::models::detail

#pragma GCC visibility pop
