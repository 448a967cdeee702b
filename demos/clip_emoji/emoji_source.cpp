#include "emoji_source.h"

#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>

#include "cldr_annotations.h"
#include "emoji_font.h"
#include "emoji_list.h"
#include "tapecache/core/error.h"
#include "tapecache/data/image.h"

namespace clip_emoji {
namespace {

/// Finds the variant without skin tones that an emoji belongs to.
class BaseFinder {
 public:
  explicit BaseFinder(const std::vector<ListedEmoji>& listed) {
    for (const ListedEmoji& emoji : listed) {
      const std::string sequence = without_variation_selectors(emoji.sequence);
      bases_.insert(sequence);
      by_name_.emplace(emoji.name, sequence);
    }
  }

  std::string find(const ListedEmoji& emoji) const {
    std::string base = without_variation_selectors(without_skin_tones(emoji.sequence));
    if (bases_.contains(base)) return base;
    // Two people of different skin tones are joined from two characters ("kiss: person, person, light skin tone,
    // dark skin tone"), which no sequence without skin tones is; only the name leads to U+1F48F ("kiss").
    const auto named = by_name_.find(emoji.name.substr(0, emoji.name.find(':')));
    return named == by_name_.end() ? base : named->second;
  }

 private:
  std::unordered_set<std::string> bases_;
  std::unordered_map<std::string, std::string> by_name_;
};

}  // namespace

std::vector<EmojiPair> load_emoji(const EmojiPaths& paths, int image_size, EmojiCounts* counts) {
  namespace data = tapecache::data;
  if (image_size < 1 || image_size > 1024) {
    throw tapecache::ValueError(fmt::format("load_emoji: image_size is {}, expected 1 to 1024", image_size));
  }
  const std::vector<ListedEmoji> listed = read_emoji_list(paths.emoji_test);
  const CldrAnnotations annotations(paths.annotations);
  EmojiFont font(paths.font);
  const BaseFinder bases(listed);

  EmojiCounts found;
  found.listed = listed.size();
  std::vector<EmojiPair> pairs;
  pairs.reserve(listed.size());
  for (const ListedEmoji& emoji : listed) {
    const auto picture = font.draw(emoji.sequence);
    if (!picture) {
      ++found.without_picture;
      continue;
    }
    const data::Image opaque = data::composite_over_white(*picture, data::Image::Alpha::premultiplied);
    data::Image image = data::resize_area(data::pad_to_square(opaque, 255), image_size, image_size);

    EmojiPair pair{emoji.sequence,         emoji.name, {}, emoji.group, emoji.subgroup, bases.find(emoji),
                   std::move(image.pixels)};
    const Annotation* annotation = annotations.find(emoji.sequence);
    if (annotation != nullptr) pair.keywords = annotation->keywords;
    if (annotation != nullptr && !annotation->name.empty()) {
      pair.name = annotation->name;
    } else {
      ++found.without_cldr_name;
    }
    pairs.push_back(std::move(pair));
  }
  if (pairs.empty()) {
    throw tapecache::FileError(fmt::format("{}: has colour bitmaps for none of the {} emoji of {}", paths.font.string(),
                                           found.listed, paths.emoji_test.string()));
  }
  if (counts != nullptr) *counts = found;
  return pairs;
}

}  // namespace clip_emoji
