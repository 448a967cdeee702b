#pragma once

#include <optional>
#include <string_view>

#include "tapecache/models/config_fields.h"
#include "tapecache/models/pretrained_parts.h"
#include "tapecache/models/transformer_config.h"

#pragma GCC visibility push(hidden)

namespace tapecache::models::detail {

/// The activation that transformers has under this name; none where there is none here.
std::optional<ops::Activation> activation_named(std::string_view name);

/// What the fields of transformers that all encoders share say, where they are given, beside `encoder`. Sizes that the
/// files cannot hold are refused: more layers than tensors, and heads that do not divide the width.
TransformerConfig read_encoder(const ConfigFields& fields, const FamilySource& source, TransformerConfig encoder);

/// Refuses what changes the result of any model of transformers and is not supported: code of the folder's own, and
/// quantised weights.
void refuse_foreign_code(const ConfigFields& fields);

/// Notes dropout of attention weights, which is not drawn here.
void note_attention_dropout(const ConfigFields& fields, const char* field, PretrainedInfo& info);

}  // namespace tapecache::models::detail

#pragma GCC visibility pop
