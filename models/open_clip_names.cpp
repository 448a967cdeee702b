#include "tapecache/models/open_clip_names.h"

#include <utility>

namespace tapecache::models::detail {

namespace {

using Form = NamePair::Form;

constexpr std::array<NamePair, 5> kResidualBlock{{{"ln_1.", "layer_norm1."},
                                                  {"ln_2.", "layer_norm2."},
                                                  {"mlp.c_fc.", "mlp.fc1."},
                                                  {"mlp.c_proj.", "mlp.fc2."},
                                                  {"attn.out_proj.", "self_attn.out_proj."}}};
constexpr std::array<NamePair, 4> kTimmBlock{
    {{"norm1.", "layer_norm1."}, {"norm2.", "layer_norm2."}, {"mlp.", "mlp."}, {"attn.proj.", "self_attn.out_proj."}}};
constexpr std::string_view kInProjection = "attn.in_proj_";
constexpr std::array<std::string_view, 3> kFusedParts{"self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."};

constexpr std::array<NamePair, 11> kNames{
    {{"logit_scale", "logit_scale"},
     {"positional_embedding", "text_model.embeddings.position_embedding.weight"},
     {"token_embedding.weight", "text_model.embeddings.token_embedding.weight"},
     {"ln_final.", "text_model.final_layer_norm."},
     {"text_projection", "text_projection.weight", Form::kTransposed},
     {"visual.class_embedding", "vision_model.embeddings.class_embedding"},
     {"visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"},
     {"visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"},
     {"visual.ln_pre.", "vision_model.pre_layrnorm."},
     {"visual.ln_post.", "vision_model.post_layernorm."},
     {"visual.proj", "visual_projection.weight", Form::kTransposed}}};
constexpr std::array<BlockNames, 2> kBlocks{
    {{"visual.transformer.resblocks.", "vision_model.encoder.layers.", kResidualBlock, kInProjection},
     {"transformer.resblocks.", "text_model.encoder.layers.", kResidualBlock, kInProjection}}};

constexpr std::array<NamePair, 13> kNamesWithTimm{
    {{"logit_scale", "logit_scale"},
     {"logit_bias", "logit_bias"},
     {"text.positional_embedding", "text_model.embeddings.position_embedding.weight"},
     {"text.token_embedding.weight", "text_model.embeddings.token_embedding.weight"},
     {"text.ln_final.", "text_model.final_layer_norm."},
     {"text.text_projection.", "text_model.head."},
     {"visual.trunk.pos_embed", "vision_model.embeddings.position_embedding.weight", Form::kBatchOfOne},
     {"visual.trunk.patch_embed.proj.", "vision_model.embeddings.patch_embedding."},
     {"visual.trunk.norm.", "vision_model.post_layernorm."},
     {"visual.trunk.attn_pool.latent", "vision_model.head.probe"},
     {"visual.trunk.attn_pool.proj.", "vision_model.head.attention.out_proj."},
     {"visual.trunk.attn_pool.norm.", "vision_model.head.layernorm."},
     {"visual.trunk.attn_pool.mlp.", "vision_model.head.mlp."}}};
constexpr std::array<BlockNames, 2> kBlocksWithTimm{
    {{"visual.trunk.blocks.", "vision_model.encoder.layers.", kTimmBlock, "attn.qkv."},
     {"text.transformer.resblocks.", "text_model.encoder.layers.", kResidualBlock, kInProjection}}};

/// The name on the other side, where the pair is of this one.
std::optional<std::string> other_side(const NamePair& pair, std::string_view name, bool from_theirs) {
  const std::string_view own = from_theirs ? pair.theirs : pair.ours, other = from_theirs ? pair.ours : pair.theirs;
  const bool is_of_it = own.ends_with('.') ? name.starts_with(own) : name == own;
  if (!is_of_it) return std::nullopt;
  return std::string(other).append(name.substr(own.size()));
}

/// A name within a tower's blocks: the tower, the number with its dot, and the rest. Null where it is none.
struct BlockName {
  const BlockNames* tower = nullptr;
  std::string number, rest;

  BlockName(const NameTable& table, std::string_view name, bool is_theirs) {
    for (const BlockNames& names : table.blocks) {
      const std::string_view own = is_theirs ? names.theirs : names.ours;
      const std::size_t dot = name.starts_with(own) ? name.find('.', own.size()) : std::string_view::npos;
      if (dot == std::string_view::npos) continue;
      tower = &names;
      number = name.substr(own.size(), dot + 1 - own.size());
      rest = name.substr(dot + 1);
    }
  }
  std::string theirs(std::string_view within) const { return std::string(tower->theirs).append(number).append(within); }
  std::string ours(std::string_view within) const { return std::string(tower->ours).append(number).append(within); }
};

Tensor in_form(Form form, const Tensor& tensor) {
  if (form == Form::kTransposed) return transposed(tensor.to(Device::cpu()));
  return form == Form::kBatchOfOne ? tensor.reshape(tensor.shape().inserted(0, 1)) : tensor;
}

/// Those that a tensor of the model is made into, which may have been done with another of its kind.
void put_block(const NamedTensors& all, const BlockName& block, const Tensor& tensor, NamedTensors& theirs) {
  for (const NamePair& part : block.tower->parts) {
    if (const auto name = other_side(part, block.rest, false)) theirs.emplace(block.theirs(*name), tensor);
  }
  if (!block.rest.starts_with(kFusedParts.front())) return;
  const std::string kind = block.rest.substr(kFusedParts.front().size());
  std::vector<Tensor> parts;
  for (const std::string_view part : kFusedParts) parts.push_back(all.at(block.ours(std::string(part).append(kind))));
  theirs.emplace(block.theirs(std::string(block.tower->fused).append(kind)), joined_rows(parts));
}

}  // namespace

const NameTable kOpenClipNames{kNames, kBlocks};
const NameTable kTimmNames{kNamesWithTimm,
                           kBlocksWithTimm,
                           {"visual.trunk.attn_pool.q.", "visual.trunk.attn_pool.kv."},
                           "vision_model.head.attention.in_proj_"};

std::vector<RenamedTensor> from_open_clip(const NameTable& table, const std::string& theirs,
                                          const SafetensorsReader::Entry& entry) {
  for (const NamePair& pair : table.names) {
    const auto ours = other_side(pair, theirs, true);
    if (!ours) continue;
    const bool is_batch = pair.form == Form::kBatchOfOne && !entry.sizes.empty() && entry.sizes.front() == 1;
    return {{*ours, {}, pair.form == Form::kTransposed && entry.sizes.size() == 2, is_batch}};
  }
  for (int place = 0; place < 2 && !table.joined.empty(); ++place) {
    const std::string_view part = table.parts_of_joined[static_cast<std::size_t>(place)];
    if (!theirs.starts_with(part)) continue;
    return {{std::string(table.joined).append(theirs.substr(part.size())), {}, false, false, place}};
  }
  const BlockName block(table, theirs, true);
  if (!block.tower) return {{theirs}};
  for (const NamePair& part : block.tower->parts) {
    if (const auto ours = other_side(part, block.rest, true)) return {{block.ours(*ours)}};
  }
  const std::string_view fused = block.tower->fused;
  if (!block.rest.starts_with(fused) || entry.sizes.empty() || entry.sizes.front() % 3 != 0) return {{theirs}};
  std::vector<RenamedTensor> parts;
  const std::int64_t rows = entry.sizes.front() / 3;
  for (std::int64_t i = 0; i < 3; ++i) {
    const std::string within = std::string(kFusedParts[static_cast<std::size_t>(i)]) + block.rest.substr(fused.size());
    parts.push_back({block.ours(within), std::pair(i * rows, (i + 1) * rows)});
  }
  return parts;
}

NamedTensors to_open_clip(const NameTable& table, const NamedTensors& ours) {
  NamedTensors theirs;
  for (const auto& [name, tensor] : ours) {
    for (const NamePair& pair : table.names) {
      if (const auto other = other_side(pair, name, false)) theirs.emplace(*other, in_form(pair.form, tensor));
    }
    if (!table.joined.empty() && name.starts_with(table.joined)) {
      const std::string kind = name.substr(table.joined.size());
      const std::int64_t third = tensor.size(0) / 3;
      theirs.emplace(std::string(table.parts_of_joined[0]).append(kind), tensor.slice(0, third));
      theirs.emplace(std::string(table.parts_of_joined[1]).append(kind), tensor.slice(third, 3 * third));
    }
    if (const BlockName block(table, name, false); block.tower) put_block(ours, block, tensor, theirs);
  }
  return theirs;
}

}  // namespace tapecache::models::detail
