#include "tapecache/gradcache/side.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "tapecache/gradcache/encoded_parts.h"

namespace tapecache::gradcache::detail {

namespace {

/// An output over all sub-batches of a side.
Tensor joined(const char* step, const Side& side, const Chunks& chunks, std::size_t output) {
  const TowerRun& first = *side.runs.front();
  const Tensor& like = first.representations()[output];
  Tensor all = Tensor::empty(like.shape().with(0, chunks.size()), like.dtype(), first.devices()[output]);
  for (std::size_t r = 0; r < side.runs.size(); ++r) {
    const std::vector<Tensor>& outputs = side.runs[r]->representations();
    if (outputs.size() != first.representations().size() ||
        outputs[output].shape().without(0) != like.shape().without(0)) {
      throw ShapeError(fmt::format("{}: tower '{}' has {} in sub-batch {}, but {} in its first", step, side.name,
                                   describe(outputs[std::min(output, outputs.size() - 1)]), r, describe(like)));
    }
    put_rows(all, chunks, chunks.parts[r], outputs[output]);
  }
  return all;
}

}  // namespace

std::vector<Side> sides_of(std::span<const Tower> towers, std::vector<Chunks> chunks, const ForwardOptions& options) {
  std::vector<Side> sides;
  for (std::size_t t = 0; t < towers.size(); ++t) {
    sides.push_back({towers[t].name(), {std::make_shared<TowerRun>(towers[t], std::move(chunks[t]), options)}});
  }
  return sides;
}

std::vector<Place> places_of(std::span<const Side> sides) {
  std::vector<Place> order;
  for (std::size_t s = 0; s < sides.size(); ++s) {
    for (std::size_t r = 0; r < sides[s].runs.size(); ++r) {
      for (std::size_t c = 0; c < sides[s].runs[r]->chunks().parts.size(); ++c) order.push_back({s, r, c});
    }
  }
  return order;
}

Chunks chunks_of(const Side& side) {
  if (side.runs.size() == 1) return side.runs.front()->chunks();
  std::vector<std::int64_t> sizes;
  for (const auto& run : side.runs) sizes.push_back(run->chunks().size());
  return cut_as_given(sizes);
}

std::vector<std::string> names_of(const Side& side) {
  const TowerRun& first = *side.runs.front();
  std::vector<std::string> names;
  for (const std::string& name : first.names()) names.push_back(side.name + name.substr(first.tower().name().size()));
  return names;
}

std::vector<Tensor> representations_of(const char* step, const Side& side) {
  const TowerRun& first = *side.runs.front();
  if (side.runs.size() == 1) return first.representations_on_device();
  const Chunks chunks = chunks_of(side);
  std::vector<Tensor> outputs;
  for (std::size_t i = 0; i < first.representations().size(); ++i) {
    outputs.push_back(joined(step, side, chunks, i));
  }
  return outputs;
}

std::vector<AuxiliaryLoss> auxiliary_of(const Side& side) {
  const std::vector<std::shared_ptr<TowerRun>>& runs = side.runs;
  const std::span<const AuxiliaryLoss> first = runs.front()->auxiliary();
  if (runs.size() == 1) return {first.begin(), first.end()};
  const Chunks chunks = chunks_of(side);
  std::vector<AuxiliaryLoss> all;
  for (std::size_t r = 0; r < runs.size(); ++r) {
    check_auxiliary(side.name, fmt::format("sub-batch {}", r), runs[r]->auxiliary(), first);
  }
  for (std::size_t i = 0; i < first.size(); ++i) {
    const Tensor& like = first[i].values.value();
    Tensor values = Tensor::empty({chunks.size()}, like.dtype(), like.device());
    for (std::size_t r = 0; r < runs.size(); ++r) {
      put_rows(values, chunks, chunks.parts[r], runs[r]->auxiliary()[i].values.value());
    }
    all.push_back({first[i].name, values, first[i].weight});
  }
  return all;
}

std::vector<Parameter> parameters_of(const Side& side) {
  std::vector<Parameter> parameters;
  for (const auto& run : side.runs) add_distinct(parameters, run->parameters());
  return parameters;
}

}  // namespace tapecache::gradcache::detail
