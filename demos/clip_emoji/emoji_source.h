#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace clip_emoji {

/// A picture of an emoji and what people call it.
struct EmojiPair {
  std::string sequence;               ///< UTF-8, fully qualified as in emoji-test.txt.
  std::string name;                   ///< CLDR's short name, such as "flag: Kenya".
  std::vector<std::string> keywords;  ///< CLDR's search keywords, often with the name among them.
  std::string group;                  ///< Such as "People & Body".
  std::string subgroup;               ///< Such as "person-activity".
  std::string base;                   ///< UTF-8 of the variant without skin tones and VS16; see `split_by_base`.
  std::vector<std::uint8_t> rgb;      ///< `[image_size, image_size, 3]`, over white.
};

/// The files the pairs are made of; the defaults are where Debian keeps them.
struct EmojiPaths {
  /// A font with colour bitmaps (fonts-noto-color-emoji).
  std::filesystem::path font = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf";
  /// The folder that holds annotations/en.xml and annotationsDerived/en.xml (unicode-cldr-core).
  std::filesystem::path annotations = "/usr/share/unicode/cldr/common";
  /// Unicode's list of emoji (unicode-data).
  std::filesystem::path emoji_test = "/usr/share/unicode/emoji/emoji-test.txt";
};

/// What `load_emoji` met on its way.
struct EmojiCounts {
  std::size_t listed = 0;             ///< Fully-qualified emoji in the list.
  std::size_t without_picture = 0;    ///< Left out: the font has no single glyph with a colour bitmap for them.
  std::size_t without_cldr_name = 0;  ///< Named after emoji-test.txt, CLDR having no name.
};

/// Reads all emoji that the font can draw, in the order of the list, drawn centred in a square of `image_size`
/// pixels. Throws tapecache::FileError naming a file that is missing or malformed, tapecache::ValueError unless
/// `image_size` is 1 to 1024.
std::vector<EmojiPair> load_emoji(const EmojiPaths& paths, int image_size, EmojiCounts* counts = nullptr);

}  // namespace clip_emoji
