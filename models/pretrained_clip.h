#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "tapecache/models/clip.h"
#include "tapecache/models/pretrained_parts.h"

#pragma GCC visibility push(hidden)

namespace tapecache::models::detail {

/// A tower that is a model by itself, and the projection that its files may have.
struct TowerKind {
  const char* name;         ///< of the tower, which the newest files leave out
  const char* known;        ///< the name of a tensor of it in those
  const char* saved_class;  ///< for `architectures`
  const char* projection = nullptr;
  const char* projecting_class = nullptr;
};

/// Takes the names of a tower alone, and gives the width of the projection that its files have, which has no bias; 0
/// where they have none.
std::int64_t name_tower(FamilyPlan& plan, const FamilySource& source, const TowerKind& kind);

/// A plan for a tower alone, whose states are as wide as the info says.
template <class Tower, class Config, class Input>
FamilyPlan plan_of_tower(const FamilySource& source, const TowerKind& kind, const Config& config, Pretrained::Info info,
                         std::function<Variable(const Input&)> FamilyModel::*encodes) {
  FamilyPlan plan;
  const std::int64_t width = info.width;
  plan.info = std::move(info);
  const std::int64_t projected = name_tower(plan, source, kind);
  plan.make = [=](const Builder& builder) {
    const auto tower = std::make_shared<const Tower>(builder.child(kind.name), config);
    FamilyModel model;
    model.*encodes = [tower](const Input& given) { return (*tower)(given); };
    if (projected == 0) return model;
    const Linear to_space(builder.child(kind.projection), width, projected, Init::normal(0.02), false);
    model.*encodes = [tower, to_space](const Input& given) { return to_space((*tower)(given)); };
    return model;
  };
  return plan;
}

/// What is used of a CLIP with both towers, whichever library its folder is of. Where that is sentence-transformers,
/// what follows normalises.
FamilyPlan plan_of(const ClipConfig& config, bool normalizes = true);

}  // namespace tapecache::models::detail

#pragma GCC visibility pop
