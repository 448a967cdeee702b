#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

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

/// Texts that belong together, or images and texts. Pair i has the hard negatives [i·hard_negatives, (i +
/// 1)·hard_negatives).
struct Pairs {
  std::vector<std::string> anchors = {}, positives = {}, negatives = {};
  bool images = false;                   ///< whether anchors are the paths of images, from the file's own folder
  std::filesystem::path file = {};       ///< that the pairs were read of
  std::vector<std::int64_t> lines = {};  ///< of the file, of each pair with an image
  std::int64_t hard_negatives = 0;       ///< of each pair
  std::int64_t skipped = 0;              ///< rows passed over for an empty text

  std::int64_t size() const { return static_cast<std::int64_t>(anchors.size()); }
  /// The image of a pair.
  ImageFile image(std::int64_t row) const;
  /// The given pairs, in their order.
  Pairs select(const std::vector<std::int64_t>& rows) const;
};

/// Reads a table (.csv, .tsv) or JSON Lines (.jsonl, .ndjson: an object a line, with texts; a hard negative's value may
/// be a list of them). A text of nothing but spaces is an empty one. Throws FileError with line and column for a row
/// that is broken, has another number of values than the header or of negatives than the first, or an empty text; for
/// columns that are not there, naming those that are; for an image that is no file; and for a file without a pair.
Pairs read_pairs(const std::filesystem::path& path, const PairsOptions& options = {});

struct TextsOptions {
  std::string column = {};  ///< of a table or JSON Lines; empty: the only one, or one called "text" or "sentence"
  bool header = true;
  bool images = false;  ///< they are paths of images: the column may be called "image", "filepath", …
};

/// Reads texts, one a line (.txt) or one a row of what `read_pairs` reads. Throws as that, and for an empty text.
std::vector<std::string> read_texts(const std::filesystem::path& path, const TextsOptions& options = {});

}  // namespace tapecache::program
