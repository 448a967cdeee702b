#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../../demos/clip_emoji/captions.h"
#include "../../demos/clip_emoji/emoji_source.h"
#include "folder.h"
#include "tapecache/core/error.h"

using clip_emoji::EmojiPair;
using clip_emoji::EmojiPaths;

namespace {

constexpr int kImageSize = 32;

/// The real data is a set of Debian packages that a machine may lack.
boost::test_tools::assertion_result has_emoji(boost::unit_test::test_unit_id) {
  const EmojiPaths paths;
  for (const auto& file : {paths.font, paths.emoji_test, paths.annotations / "annotations" / "en.xml",
                           paths.annotations / "annotationsDerived" / "en.xml"}) {
    if (!std::filesystem::exists(file)) {
      boost::test_tools::assertion_result absent(false);
      absent.message() << file.string() << " is not installed";
      return absent;
    }
  }
  return true;
}

const boost::unit_test::precondition kNeedsEmoji{has_emoji};

struct Loaded {
  clip_emoji::EmojiCounts counts;
  std::vector<EmojiPair> pairs = clip_emoji::load_emoji({}, kImageSize, &counts);
};

const Loaded& loaded() {
  static const Loaded all;
  return all;
}

const EmojiPair& pair_of(std::string_view sequence) {
  const auto& pairs = loaded().pairs;
  const auto found = std::find_if(pairs.begin(), pairs.end(), [&](const auto& p) { return p.sequence == sequence; });
  BOOST_REQUIRE(found != pairs.end());
  return *found;
}

/// Small stand-ins for the list and the annotations, which a test can spoil, beside the real font.
class Files {
 public:
  Files() {
    std::filesystem::create_directories(folder_ / "annotations");
    std::filesystem::create_directories(folder_ / "annotationsDerived");
    paths_.annotations = folder_.path();
    paths_.emoji_test = folder_ / "emoji-test.txt";
    write("emoji-test.txt", "# group: Smileys\n# subgroup: face\n1F600 ; fully-qualified # 😀 E1.0 grinning face\n");
    write("annotations/en.xml", kAnnotations);
    write("annotationsDerived/en.xml", kAnnotations);
  }

  void write(const std::string& name, std::string_view content) const {
    tapecache::testing::put(folder_ / name, content);
  }
  void remove(const std::string& name) const { std::filesystem::remove(folder_ / name); }
  std::filesystem::path file(const std::string& name) const { return folder_ / name; }
  EmojiPaths& paths() { return paths_; }

  /// Checks that loading throws a FileError whose message has all of `parts`.
  void check_fails(const std::vector<std::string>& parts) const {
    BOOST_CHECK_EXCEPTION(
        clip_emoji::load_emoji(paths_, kImageSize), tapecache::FileError, [&](const tapecache::FileError& error) {
          BOOST_TEST_MESSAGE(error.what());
          const std::string text = error.what();
          return std::all_of(parts.begin(), parts.end(),
                             [&](const std::string& part) { return text.find(part) != std::string::npos; });
        });
  }

 private:
  static constexpr std::string_view kAnnotations =
      "<ldml><annotations><annotation cp='😀'>face | grin</annotation>"
      "<annotation cp='😀' type='tts'>grinning face</annotation></annotations></ldml>";

  tapecache::testing::Folder folder_;
  EmojiPaths paths_;
};

/// A pair for the split, whose picture is told by one number.
EmojiPair made_pair(std::string group, std::string base, std::uint8_t picture) {
  return {base, base, {}, std::move(group), "", base, {picture}};
}

}  // namespace

BOOST_AUTO_TEST_SUITE(emoji_data)

BOOST_AUTO_TEST_CASE(nearly_all_emoji_are_drawn, *kNeedsEmoji) {
  const auto& [counts, pairs] = loaded();
  BOOST_TEST(pairs.size() > 3500u);
  BOOST_TEST(pairs.size() + counts.without_picture == counts.listed);
  BOOST_TEST(counts.without_cldr_name < pairs.size() / 50);
  for (const EmojiPair& pair : pairs) {
    BOOST_TEST_CONTEXT(pair.sequence) {
      BOOST_REQUIRE_EQUAL(pair.rgb.size(), static_cast<std::size_t>(kImageSize * kImageSize * 3));
      BOOST_REQUIRE(!pair.name.empty());
      BOOST_REQUIRE(!pair.group.empty());
      BOOST_REQUIRE(!pair.subgroup.empty());
      BOOST_REQUIRE(!pair.base.empty());
    }
  }
}

BOOST_AUTO_TEST_CASE(every_kind_of_sequence_has_its_name, *kNeedsEmoji) {
  BOOST_TEST(pair_of("🇰🇪").name == "flag: Kenya");
  BOOST_TEST(pair_of("🏴󠁧󠁢󠁳󠁣󠁴󠁿").name == "flag: Scotland");
  BOOST_TEST(pair_of("👋🏽").name == "waving hand: medium skin tone");
  BOOST_TEST(pair_of("👨‍👩‍👧‍👦").name == "family: man, woman, girl, boy");
  BOOST_TEST(pair_of("#️⃣").name == "keycap: #");
  BOOST_TEST(pair_of("❤️").name == "red heart");
  BOOST_TEST(pair_of("❤️").group == "Smileys & Emotion");
  const auto& keywords = pair_of("🦁").keywords;
  BOOST_TEST((std::find(keywords.begin(), keywords.end(), "zodiac") != keywords.end()));
}

BOOST_AUTO_TEST_CASE(pictures_are_seen_and_differ, *kNeedsEmoji) {
  std::set<std::vector<std::uint8_t>> distinct;
  for (const EmojiPair& pair : loaded().pairs) {
    const auto [darkest, lightest] = std::minmax_element(pair.rgb.begin(), pair.rgb.end());
    BOOST_TEST_CONTEXT(pair.sequence) { BOOST_CHECK_LT(*darkest + 20, *lightest); }
    distinct.insert(pair.rgb);
  }
  // Some flags are the same flag, as those of France and of Clipperton Island.
  BOOST_TEST(distinct.size() > loaded().pairs.size() * 99 / 100);
}

BOOST_AUTO_TEST_CASE(colours_are_red_green_blue, *kNeedsEmoji) {
  const auto centre = [](std::string_view sequence) {
    const auto& rgb = pair_of(sequence).rgb;
    const auto* pixel = rgb.data() + (kImageSize / 2 * kImageSize + kImageSize / 2) * 3;
    return std::vector<int>(pixel, pixel + 3);
  };
  const auto red = centre("🟥");
  const auto blue = centre("🟦");
  BOOST_TEST(red[0] > red[2] + 100);
  BOOST_TEST(blue[2] > blue[0] + 100);
  // A circle leaves the corner to the white background.
  BOOST_TEST(static_cast<int>(pair_of("🔴").rgb.front()) == 255);
}

BOOST_AUTO_TEST_CASE(skin_tones_share_a_base, *kNeedsEmoji) {
  BOOST_TEST(pair_of("👋").base == "👋");
  BOOST_TEST(pair_of("👋🏻").base == "👋");
  BOOST_TEST(pair_of("👋🏿").base == "👋");
  BOOST_TEST(pair_of("🕵️").base == pair_of("🕵🏽").base);
  BOOST_TEST(pair_of("🕵️‍♀️").base == pair_of("🕵🏽‍♀️").base);
  BOOST_TEST(pair_of("🧑🏻‍❤️‍💋‍🧑🏿").base == "💏");
  BOOST_TEST(pair_of("🫱🏻‍🫲🏿").base == "🤝");
  BOOST_TEST(pair_of("👋").base != pair_of("🤚").base);
}

BOOST_AUTO_TEST_CASE(split_holds_out_a_tenth_of_every_group, *kNeedsEmoji) {
  const auto& pairs = loaded().pairs;
  const clip_emoji::Split split = clip_emoji::split_by_base(pairs, 0.1, 1);
  const double fraction = static_cast<double>(split.held_out.size()) / static_cast<double>(pairs.size());
  BOOST_TEST(fraction > 0.09);
  BOOST_TEST(fraction < 0.11);

  std::vector<std::size_t> all;
  std::merge(split.train.begin(), split.train.end(), split.held_out.begin(), split.held_out.end(),
             std::back_inserter(all));
  BOOST_REQUIRE(all.size() == pairs.size());
  for (std::size_t i = 0; i < all.size(); ++i) BOOST_REQUIRE(all[i] == i);

  std::set<std::string> bases;
  std::set<std::vector<std::uint8_t>> pictures;
  std::map<std::string, double> held_out_of_group, size_of_group;
  for (const std::size_t i : split.train) {
    bases.insert(pairs[i].base);
    pictures.insert(pairs[i].rgb);
    ++size_of_group[pairs[i].group];
  }
  for (const std::size_t i : split.held_out) {
    BOOST_CHECK(!bases.contains(pairs[i].base));
    BOOST_CHECK(!pictures.contains(pairs[i].rgb));
    ++size_of_group[pairs[i].group];
    ++held_out_of_group[pairs[i].group];
  }
  for (const auto& [group, size] : size_of_group) {
    BOOST_TEST_CONTEXT(group) {
      BOOST_TEST(held_out_of_group[group] / size > 0.08);
      BOOST_TEST(held_out_of_group[group] / size < 0.12);
    }
  }
  BOOST_TEST(clip_emoji::split_by_base(pairs, 0.1, 1).held_out == split.held_out);
  BOOST_TEST(clip_emoji::split_by_base(pairs, 0.1, 2).held_out != split.held_out);
}

BOOST_AUTO_TEST_CASE(split_keeps_equal_bases_and_pictures_together) {
  std::vector<EmojiPair> pairs;
  // 0 and 1 share a base, 1 and 2 a picture, so that the three are one.
  pairs.push_back(made_pair("g", "a", 0));
  pairs.push_back(made_pair("g", "a", 1));
  pairs.push_back(made_pair("g", "b", 1));
  pairs.push_back(made_pair("g", "c", 2));
  pairs.push_back(made_pair("g", "d", 3));
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const auto split = clip_emoji::split_by_base(pairs, 0.5, seed);
    BOOST_TEST(!split.train.empty());
    BOOST_TEST(!split.held_out.empty());
    const auto held_out = std::count_if(split.held_out.begin(), split.held_out.end(), [](auto i) { return i < 3; });
    BOOST_TEST((held_out == 0 || held_out == 3));
  }
}

BOOST_AUTO_TEST_CASE(split_is_the_same_everywhere) {
  std::vector<EmojiPair> pairs;
  for (std::uint8_t i = 0; i < 20; ++i) pairs.push_back(made_pair("g", std::string(1, static_cast<char>('a' + i)), i));
  const std::vector<std::size_t> expected{0, 4, 13, 16, 19};
  BOOST_TEST(clip_emoji::split_by_base(pairs, 0.25, 42).held_out == expected, boost::test_tools::per_element());
  BOOST_TEST(clip_emoji::split_by_base(pairs, 0.0, 42).held_out.empty());
  BOOST_TEST(clip_emoji::split_by_base({}, 0.5, 42).train.empty());
  BOOST_CHECK_THROW(clip_emoji::split_by_base(pairs, 1.0, 42), tapecache::ValueError);
  BOOST_CHECK_THROW(clip_emoji::split_by_base(pairs, -0.1, 42), tapecache::ValueError);
}

BOOST_AUTO_TEST_CASE(caption_says_nothing_twice) {
  EmojiPair pair;
  pair.name = "person running: medium skin tone";
  pair.keywords = {"marathon", "medium skin tone", "person running", "running", "Marathon"};
  BOOST_TEST(clip_emoji::caption(pair) == "person running: medium skin tone, marathon, running");
  pair.name = "flag: Kenya";
  pair.keywords = {"flag"};
  BOOST_TEST(clip_emoji::caption(pair) == "flag: Kenya");
  pair.keywords.clear();
  BOOST_TEST(clip_emoji::caption(pair) == "flag: Kenya");
}

BOOST_AUTO_TEST_CASE(names_fall_back_to_the_list, *kNeedsEmoji) {
  Files files;
  files.write("emoji-test.txt",
              "# group: Food\n# subgroup: fruit\n"
              "1F34E ; fully-qualified # 🍎 E0.6 red apple\r\n"
              "1F34F ; unqualified # 🍏 E0.6 green apple\n"
              "0041 ; fully-qualified # A E0.6 no emoji\n");
  clip_emoji::EmojiCounts counts;
  const auto pairs = clip_emoji::load_emoji(files.paths(), kImageSize, &counts);
  BOOST_REQUIRE(pairs.size() == 1u);
  BOOST_TEST(pairs[0].name == "red apple");
  BOOST_TEST(pairs[0].subgroup == "fruit");
  BOOST_TEST(counts.listed == 2u);
  BOOST_TEST(counts.without_picture == 1u);
  BOOST_TEST(counts.without_cldr_name == 1u);
}

BOOST_AUTO_TEST_CASE(missing_files_are_named_with_their_package) {
  Files files;
  files.paths().font = files.file("none.ttf");
  files.check_fails({files.file("none.ttf").string(), "fonts-noto-color-emoji"});
  files.remove("annotationsDerived/en.xml");
  files.check_fails({files.file("annotationsDerived/en.xml").string(), "unicode-cldr-core"});
  files.remove("emoji-test.txt");
  files.check_fails({files.file("emoji-test.txt").string(), "unicode-data"});
  files.paths().emoji_test = files.file("annotations");
  files.check_fails({files.file("annotations").string(), "not a file"});
}

BOOST_AUTO_TEST_CASE(malformed_annotations_are_named) {
  Files files;
  const std::string name = "annotations/en.xml";
  files.write(name, "<ldml><annotations><annotation cp='😀'>face");
  files.check_fails({files.file(name).string(), "malformed XML"});
  files.write(name, "");
  files.check_fails({files.file(name).string()});
  files.write(name, "<html><p>Not found</p></html>");
  files.check_fails({files.file(name).string(), "no <annotation>"});
  files.write(name, "<ldml><annotations><annotation type='tts'>face</annotation></annotations></ldml>");
  files.check_fails({files.file(name).string(), "cp"});
}

BOOST_AUTO_TEST_CASE(malformed_lists_are_named_with_the_line) {
  Files files;
  const std::string path = files.file("emoji-test.txt").string();
  for (const std::string_view line :
       {"1F600 fully-qualified # 😀 E1.0 grinning face", "1F600 ; fully-qualified", "smile ; fully-qualified # 😀 E1.0 a",
        "; fully-qualified # 😀 E1.0 a", "110000 ; fully-qualified # 😀 E1.0 a", "D800 ; fully-qualified # 😀 E1.0 a",
        "1F600 ; fully-qualified # 😀 grinning face", "1F600 ; fully-qualified # 😀 E1.0", "<html>"}) {
    BOOST_TEST_CONTEXT(line) {
      files.write("emoji-test.txt", "# group: Smileys\n\n" + std::string(line) + "\n");
      files.check_fails({path + ":3:"});
    }
  }
  files.write("emoji-test.txt", "1F600 ; fully-qualified # 😀 E1.0 grinning face\n");
  files.check_fails({path + ":1:", "group"});
  files.write("emoji-test.txt", "# group: Smileys\n");
  files.check_fails({path, "no fully-qualified emoji"});
}

BOOST_AUTO_TEST_CASE(unusable_fonts_are_named) {
  Files files;
  files.paths().font = files.file("text.ttf");
  files.write("text.ttf", "not a font at all");
  files.check_fails({files.file("text.ttf").string(), "not a font"});
  for (const char* plain :
       {"/usr/share/fonts/truetype/noto/NotoMono-Regular.ttf", "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"}) {
    if (!std::filesystem::exists(plain)) continue;
    files.paths().font = plain;
    files.check_fails({plain, "no colour bitmaps"});
  }
}

BOOST_AUTO_TEST_CASE(damaged_bitmaps_are_an_error, *kNeedsEmoji) {
  Files files;
  const std::filesystem::path copy = files.file("damaged.ttf");
  std::filesystem::copy_file(files.paths().font, copy);
  const auto size = static_cast<std::size_t>(std::filesystem::file_size(copy));
  {
    // The bitmaps are the bulk of the font, so a hole in its middle is in them.
    std::fstream font(copy, std::ios::in | std::ios::out | std::ios::binary);
    font.seekp(static_cast<std::streamoff>(size / 8));
    font << std::string(size / 4 * 3, '\0');
  }
  files.paths().font = copy;
  files.check_fails({copy.string(), "damaged"});
}

BOOST_AUTO_TEST_CASE(emoji_missing_from_the_font_are_an_error, *kNeedsEmoji) {
  Files files;
  files.write("emoji-test.txt", "# group: Letters\n0041 ; fully-qualified # A E0.6 letter\n");
  files.check_fails({files.paths().font.string(), files.file("emoji-test.txt").string()});
}

BOOST_AUTO_TEST_CASE(image_size_is_checked) {
  BOOST_CHECK_THROW(clip_emoji::load_emoji({}, 0, nullptr), tapecache::ValueError);
  BOOST_CHECK_THROW(clip_emoji::load_emoji({}, 100000, nullptr), tapecache::ValueError);
}

BOOST_AUTO_TEST_SUITE_END()
