#include "captions.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <string_view>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>

#include "tapecache/core/error.h"

namespace clip_emoji {
namespace {

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return result;
}

/// Pairs that must stay on one side of a split.
struct Cluster {
  std::vector<std::size_t> members;
  std::uint64_t key = 0;
};

std::vector<std::vector<std::size_t>> connected_pairs(const std::vector<EmojiPair>& pairs) {
  std::vector<std::size_t> parent(pairs.size());
  std::iota(parent.begin(), parent.end(), std::size_t{0});
  const auto root = [&](std::size_t i) {
    while (parent[i] != i) i = parent[i] = parent[parent[i]];
    return i;
  };
  std::map<std::string_view, std::size_t> first_of_base;
  std::map<std::string_view, std::size_t> first_of_picture;
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const std::string_view picture(reinterpret_cast<const char*>(pairs[i].rgb.data()), pairs[i].rgb.size());
    for (const std::size_t other : {first_of_base.try_emplace(pairs[i].base, i).first->second,
                                    first_of_picture.try_emplace(picture, i).first->second}) {
      // The smaller index becomes the root, so that clusters come out in the order of their first pair.
      const auto [low, high] = std::minmax({root(i), root(other)});
      parent[high] = low;
    }
  }
  std::map<std::size_t, std::vector<std::size_t>> by_root;
  for (std::size_t i = 0; i < pairs.size(); ++i) by_root[root(i)].push_back(i);
  std::vector<std::vector<std::size_t>> result;
  for (auto& entry : by_root) result.push_back(std::move(entry.second));
  return result;
}

/// SplitMix64 (Steele, Lea and Flood 2014).
std::uint64_t mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

/// FNV-1a, which unlike std::hash is the same with every standard library.
std::uint64_t hash(std::string_view text) {
  std::uint64_t h = 0xCBF29CE484222325u;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  return h;
}

/// Says which clusters of one group to hold out; at least one where there is a choice, and never all.
std::vector<bool> choose_held_out(const std::vector<Cluster>& clusters, double fraction) {
  std::vector<bool> chosen(clusters.size(), false);
  if (fraction == 0.0 || clusters.size() < 2) return chosen;
  std::size_t pair_count = 0;
  for (const Cluster& cluster : clusters) pair_count += cluster.members.size();
  const double target = fraction * static_cast<double>(pair_count);
  double held_out = 0.0;
  for (std::size_t i = 0; i < clusters.size(); ++i) {
    const auto size = static_cast<double>(clusters[i].members.size());
    if (held_out + size / 2 > target) continue;
    chosen[i] = true;
    held_out += size;
  }
  if (held_out == 0.0) chosen.front() = true;
  if (std::find(chosen.begin(), chosen.end(), false) == chosen.end()) chosen.back() = false;
  return chosen;
}

}  // namespace

std::string caption(const EmojiPair& pair) {
  std::unordered_set<std::string> said{lower(pair.name)};
  // "kiss: man, man, dark skin tone" says "kiss", "man" and "dark skin tone".
  std::string_view rest = pair.name;
  while (!rest.empty()) {
    const std::string_view part = rest.substr(0, rest.find_first_of(":,"));
    rest.remove_prefix(std::min(rest.size(), part.size() + 1));
    said.insert(lower(part.substr(std::min(part.size(), part.find_first_not_of(' ')))));
  }
  std::string text = pair.name;
  for (const std::string& keyword : pair.keywords) {
    if (said.insert(lower(keyword)).second) text += ", " + keyword;
  }
  return text;
}

Split split_by_base(const std::vector<EmojiPair>& pairs, double held_out_fraction, std::uint64_t seed) {
  if (!(held_out_fraction >= 0.0 && held_out_fraction < 1.0)) {
    throw tapecache::ValueError(
        fmt::format("split_by_base: held_out_fraction is {}, expected [0, 1)", held_out_fraction));
  }
  std::map<std::string_view, std::vector<Cluster>> groups;
  for (auto& members : connected_pairs(pairs)) {
    const EmojiPair& first = pairs[members.front()];
    groups[first.group].push_back({std::move(members), mix(hash(first.base) ^ mix(seed))});
  }
  Split split;
  for (auto& entry : groups) {
    std::vector<Cluster>& clusters = entry.second;
    std::stable_sort(clusters.begin(), clusters.end(),
                     [](const Cluster& a, const Cluster& b) { return a.key < b.key; });
    const std::vector<bool> chosen = choose_held_out(clusters, held_out_fraction);
    for (std::size_t i = 0; i < clusters.size(); ++i) {
      std::vector<std::size_t>& side = chosen[i] ? split.held_out : split.train;
      side.insert(side.end(), clusters[i].members.begin(), clusters[i].members.end());
    }
  }
  std::sort(split.train.begin(), split.train.end());
  std::sort(split.held_out.begin(), split.held_out.end());
  return split;
}

}  // namespace clip_emoji
