#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "csv.h"
#include "fingerprint.h"
#include "row_file.h"

namespace tapecache::program {

struct PairsOptions {
  /// Names of the columns of anchor, positive and hard negatives, in this order; of a file without a header their
  /// numbers, from 1. Empty: those whose name is known ("anchor", "query", "positive", "negative_1", …), or in their
  /// order.
  std::vector<std::string> columns = {};
  /// Names, or numbers, of the columns of images and captions, which are the pairs then; either may be empty where its
  /// name is known ("image", "filepath", "caption", "title", …).
  std::string image = {}, caption = {};
  bool header = true;       ///< whether the first row of a table has names
  bool skip_empty = false;  ///< pass over rows with an empty text, in the place of refusing them
};

/// A file of an image, and where that is named, for messages; empty where it is nowhere.
struct ImageFile {
  std::filesystem::path path;
  std::string where;
};

/// Where pairs come from.
struct PairsSource {
  std::filesystem::path file = {};
  bool header = true;
  /// Of anchor, positive and hard negatives, in this order, and those that are not read.
  std::vector<std::string> columns = {}, unused = {};

  /// "pairs.csv: line 3, column 5: what", of where the text stands first.
  FileError error(const std::string& text, const std::string& what) const;
};

/// Texts that belong together, or images and texts. Pair i has the hard negatives [i·hard_negatives, (i +
/// 1)·hard_negatives).
struct Pairs {
  std::vector<std::string> anchors = {}, positives = {}, negatives = {};
  bool images = false;  ///< whether anchors are the paths of images, from the file's own folder
  PairsSource source = {};
  std::vector<std::int64_t> lines = {};  ///< of the file, of each pair with an image
  std::int64_t hard_negatives = 0;       ///< of each pair
  std::string paths = {};                ///< a column that is read as texts and has the paths of images; empty: none

  std::int64_t size() const { return static_cast<std::int64_t>(anchors.size()); }
  /// The image of a pair.
  ImageFile image(std::int64_t row) const;
};

/// Pairs that stay in their file: it is gone through once, and then a pair is read when it is asked for. What is kept
/// of each is where it stands, so that a file may be larger than memory.
///
/// A file is a table (.csv, .tsv) or JSON Lines (.jsonl, .ndjson: an object a line, with texts; a hard negative's value
/// may be a list of them). A text of nothing but spaces is an empty one.
class PairsFile {
 public:
  /// Throws FileError with line and column for a row that is broken, has another number of values than the header or of
  /// negatives than the first, or an empty text; for columns that are not there, naming those that are; for one that
  /// says which pairs belong together ("label", "score", …), unless all are chosen; for an image that is no file; for a
  /// file without a pair, and for one that is written to meanwhile.
  explicit PairsFile(const std::filesystem::path& path, const PairsOptions& options = {});

  std::int64_t size() const { return static_cast<std::int64_t>(begins_.size()); }
  const PairsSource& source() const { return source_; }
  bool images() const { return images_; }
  /// A column that is read as texts and has the paths of images, by its name or by its first value; empty where none
  /// has.
  const std::string& paths() const { return paths_; }
  std::int64_t hard_negatives() const { return hard_negatives_; }  ///< of each pair
  std::int64_t skipped() const { return skipped_; }                ///< rows passed over for an empty text
  /// Of the texts of all pairs, in their order, those that were taken out too.
  std::uint64_t fingerprint() const { return fingerprint_.value(); }

  /// The given pairs, in their order. From any thread. Throws FileError for a file that was written to since.
  Pairs read(std::span<const std::int64_t> rows) const;
  /// A number of each pair's anchor, the same where anchors are equal, and seldom where not; none after `take_out`.
  const std::deque<std::uint32_t>& anchor_numbers() const { return anchor_numbers_; }
  /// Reads the given pairs, which ascend, and has them no more: those behind take their numbers.
  Pairs take_out(std::span<const std::int64_t> rows);

 private:
  friend Pairs read_pairs(const std::filesystem::path&, const PairsOptions&);
  PairsFile(const std::filesystem::path& path, const PairsOptions& options, Pairs* all);
  void choose(const PairsOptions& options);
  void add(std::size_t begin, std::size_t end, const std::vector<Field>& texts);
  Pairs no_pairs() const;

  PairsSource source_;
  RowFile rows_;
  std::string paths_;
  bool images_ = false;
  std::int64_t hard_negatives_ = 0, skipped_ = 0;
  Fingerprint fingerprint_;
  // Of each pair, in containers that are not copied as they grow:
  std::deque<std::uint64_t> begins_;
  std::deque<std::uint32_t> bytes_, anchor_numbers_;
  std::deque<std::int64_t> lines_;  // of pairs with images
};

/// All pairs of a file, read at once. Throws as `PairsFile`.
Pairs read_pairs(const std::filesystem::path& path, const PairsOptions& options = {});

struct TextsOptions {
  std::string column = {};  ///< of a table or JSON Lines; empty: the only one, or one called "text" or "sentence"
  bool header = true;
  bool images = false;  ///< they are paths of images: the column may be called "image", "filepath", …
};

/// Reads texts, one a line (.txt) or one a row of what `read_pairs` reads. Throws as that, and for an empty text.
std::vector<std::string> read_texts(const std::filesystem::path& path, const TextsOptions& options = {});
/// "texts.csv: line 3, column 5: what", of where the text stands first.
FileError text_error(const std::filesystem::path& path, const TextsOptions& options, const std::string& text,
                     const std::string& what);

}  // namespace tapecache::program
