#include "tapecache/gradcache/backward_order.h"

#include <algorithm>
#include <numeric>
#include <tuple>
#include <unordered_map>
#include <unordered_set>

namespace tapecache::gradcache::detail {

namespace {

std::vector<std::size_t> from_the_last(std::size_t count) {
  std::vector<std::size_t> order(count);
  std::iota(order.rbegin(), order.rend(), std::size_t{0});
  return order;
}

std::vector<BackwardGroup> grouped_by_parameters(std::span<const Side> sides) {
  std::vector<std::size_t> group(sides.size());  // the number of one of its sides
  std::vector<std::size_t> bytes(sides.size(), 0);
  std::iota(group.begin(), group.end(), std::size_t{0});
  std::unordered_map<const void*, std::size_t> reader;  // of a parameter, the first side
  for (std::size_t s = 0; s < sides.size(); ++s) {
    for (const Parameter& p : parameters_of(sides[s])) {
      const auto [known, is_new] = reader.try_emplace(p.id(), s);
      if (is_new) bytes[s] += p.value().bytes();
      else std::replace(group.begin(), group.end(), std::size_t{group[known->second]}, group[s]);
    }
  }
  std::vector<std::size_t> weight(sides.size(), 0);  // of a group
  for (std::size_t s = 0; s < sides.size(); ++s) weight[group[s]] += bytes[s];
  std::vector<std::size_t> order = from_the_last(sides.size());
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::tuple(weight[group[a]], group[a]) > std::tuple(weight[group[b]], group[b]);
  });
  std::vector<BackwardGroup> groups;
  for (const std::size_t s : order) {
    if (groups.empty() || group[groups.back().sides.front()] != group[s]) groups.emplace_back();
    groups.back().sides.push_back(s);
  }
  return groups;
}

void note_last(std::span<const Side> sides, std::vector<BackwardStep>& steps) {
  std::unordered_set<const void*> later;  // runs and parameters that are met after a step
  for (std::size_t i = steps.size(); i-- > 0;) {
    const Place& place = steps[i].place;
    const TowerRun& run = *sides[place.side].runs[place.run];
    if (!later.insert(&run).second) continue;
    for (const Parameter& p : run.parameters()) {
      if (later.insert(p.id()).second) steps[i].last.push_back(p);
    }
  }
}

}  // namespace

std::vector<BackwardGroup> backward_order(std::span<const Side> sides, std::span<const Share> shares,
                                          const Segments& segments, GroupOrder order) {
  std::vector<BackwardGroup> groups;
  if (order == GroupOrder::kLargestFirst) groups = grouped_by_parameters(sides);
  else groups.push_back({from_the_last(sides.size()), {}});
  for (BackwardGroup& group : groups) {
    for (const std::size_t s : group.sides) {
      const Share& share = shares[s];
      if (share.own == 0) continue;
      std::vector<Place> places = places_of(sides.subspan(s, 1));
      std::reverse(places.begin(), places.end());
      for (Place place : places) {
        place.side = s;
        const TowerRun& run = *sides[s].runs[place.run];
        if (run.frozen()) continue;
        BackwardStep& step = group.steps.emplace_back(BackwardStep{place, 0, {}});
        if (segments.any()) {
          step.segment = segments.of(share.total, share.first + run.chunks().parts[place.chunk].begin);
        }
      }
    }
    std::stable_sort(group.steps.begin(), group.steps.end(),
                     [](const BackwardStep& a, const BackwardStep& b) { return a.segment > b.segment; });
    note_last(sides, group.steps);
  }
  return groups;
}

std::vector<Parameter> completion_order(std::span<const Side> sides, std::span<const BackwardGroup> groups) {
  std::vector<Parameter> order;
  std::unordered_set<const void*> known;
  for (std::size_t g = groups.size(); g-- > 0;) {
    for (std::size_t i = groups[g].sides.size(); i-- > 0;) {
      // What is read first is complete last.
      for (const Parameter& p : parameters_of(sides[groups[g].sides[i]])) {
        if (known.insert(p.id()).second) order.push_back(p);
      }
    }
  }
  std::reverse(order.begin(), order.end());
  return order;
}

}  // namespace tapecache::gradcache::detail
