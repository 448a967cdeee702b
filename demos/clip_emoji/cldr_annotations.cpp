#include "cldr_annotations.h"

#include <algorithm>
#include <cstddef>

#include <fmt/format.h>

#include <pugixml.hpp>

#include "emoji_list.h"
#include "required_file.h"
#include "tapecache/core/error.h"

namespace clip_emoji {
namespace {

/// Splits "dash | line | low line" into its trimmed, non-empty parts.
std::vector<std::string> split_keywords(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n";
  std::vector<std::string> keywords;
  while (!text.empty()) {
    std::string_view part = text.substr(0, text.find('|'));
    text.remove_prefix(std::min(text.size(), part.size() + 1));
    const std::size_t begin = part.find_first_not_of(kBlank);
    if (begin == std::string_view::npos) continue;
    keywords.emplace_back(part.substr(begin, part.find_last_not_of(kBlank) - begin + 1));
  }
  return keywords;
}

}  // namespace

CldrAnnotations::CldrAnnotations(const std::filesystem::path& folder) {
  read(folder / "annotations" / "en.xml");
  read(folder / "annotationsDerived" / "en.xml");
}

const Annotation* CldrAnnotations::find(std::string_view sequence) const {
  const auto found = annotations_.find(without_variation_selectors(sequence));
  return found == annotations_.end() ? nullptr : &found->second;
}

void CldrAnnotations::read(const std::filesystem::path& file) {
  require_file(file, "CLDR's English emoji annotations", "unicode-cldr-core");
  pugi::xml_document document;
  const pugi::xml_parse_result parsed = document.load_file(file.c_str());
  if (!parsed) {
    throw tapecache::FileError(fmt::format("{}: malformed XML at byte {}: {}, expected CLDR annotations", file.string(),
                                           parsed.offset, parsed.description()));
  }
  std::size_t count = 0;
  for (const pugi::xml_node node : document.child("ldml").child("annotations").children("annotation")) {
    const pugi::xml_attribute characters = node.attribute("cp");
    if (!characters) {
      throw tapecache::FileError(fmt::format("{}: <annotation> at byte {} has no attribute cp, expected the characters",
                                             file.string(), node.offset_debug()));
    }
    Annotation& annotation = annotations_[without_variation_selectors(characters.value())];
    if (std::string_view(node.attribute("type").value()) == "tts") {
      annotation.name = node.child_value();
    } else {
      annotation.keywords = split_keywords(node.child_value());
    }
    ++count;
  }
  if (count == 0) {
    throw tapecache::FileError(
        fmt::format("{}: no <annotation> in <ldml><annotations>, expected CLDR annotations", file.string()));
  }
}

}  // namespace clip_emoji
