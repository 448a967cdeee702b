#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace clip_emoji {

/// What CLDR says of one emoji: its short name (type "tts", empty where CLDR has none) and its keywords.
struct Annotation {
  std::string name;
  std::vector<std::string> keywords;
};

/// The English annotations of CLDR (UTS #35, part 2, "Annotations"), given and derived ones together.
class CldrAnnotations {
 public:
  /// Reads `annotations/en.xml` and `annotationsDerived/en.xml` below `folder`. Throws tapecache::FileError naming
  /// the file that is missing, malformed or without annotations.
  explicit CldrAnnotations(const std::filesystem::path& folder);

  /// Looks up a UTF-8 sequence, with or without VS16; null where CLDR does not know it.
  const Annotation* find(std::string_view sequence) const;

 private:
  void read(const std::filesystem::path& file);

  std::unordered_map<std::string, Annotation> annotations_;
};

}  // namespace clip_emoji
