#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace clip_emoji {

/// One fully-qualified line of Unicode's emoji-test.txt (UTS #51).
struct ListedEmoji {
  std::string sequence;  ///< UTF-8, variation selectors included.
  std::string name;
  std::string group;
  std::string subgroup;
};

/// Reads the fully-qualified emoji in file order. Throws tapecache::FileError naming the file, and the line where it
/// is malformed.
std::vector<ListedEmoji> read_emoji_list(const std::filesystem::path& emoji_test);

/// Removes U+FE0F (VS16), which CLDR leaves out of its keys.
std::string without_variation_selectors(std::string_view utf8);

/// Removes the five skin tone modifiers U+1F3FB to U+1F3FF.
std::string without_skin_tones(std::string_view utf8);

}  // namespace clip_emoji
