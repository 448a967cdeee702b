#include "pairs_file.h"

#include <algorithm>
#include <cctype>
#include <functional>
#include <iterator>
#include <limits>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "image_files.h"
#include "tapecache/core/error.h"
#include "text_file.h"

namespace tapecache::program {

namespace {

constexpr std::string_view kAnchorNames[] = {"anchor", "query", "question", "sentence1", "text1", "source"};
constexpr std::string_view kPositiveNames[] = {"positive", "pos",       "passage", "document",
                                               "answer",   "sentence2", "text2",   "target"};
constexpr std::string_view kNegativeNames[] = {"negative", "neg", "hard_negative"};
constexpr std::string_view kNegativeListNames[] = {"negatives", "negs", "hard_negatives"};
constexpr std::string_view kLabelNames[] = {
    "label",      "labels",    "score",        "scores",           "gold_label",
    "similarity", "relevance", "is_duplicate", "similarity_score", "relatedness_score"};
constexpr std::string_view kImageNames[] = {"image",     "image_path", "filepath", "file_path",
                                            "file_name", "filename",   "path"};
constexpr std::string_view kCaptionNames[] = {"caption", "captions", "title", "text", "sentence", "description"};
constexpr std::string_view kTextNames[] = {"text", "sentence", "passage", "document"};

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return result;
}

/// Whether `name` is one of these, in any case, with a number behind it or without.
bool is_one_of(std::string_view name, std::span<const std::string_view> names, bool numbered = false) {
  std::string known = lower(name);
  if (numbered) {
    while (!known.empty() && std::isdigit(static_cast<unsigned char>(known.back()))) known.pop_back();
    while (!known.empty() && (known.back() == '_' || known.back() == '-')) known.pop_back();
  }
  return std::ranges::find(names, known) != names.end();
}

bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos; }

std::string listed(const std::vector<std::string>& names) { return fmt::format("'{}'", fmt::join(names, "', '")); }

std::optional<std::string> first_of(const std::vector<std::string>& names, std::span<const std::string_view> known) {
  const auto found = std::ranges::find_if(names, [&](const std::string& name) { return is_one_of(name, known); });
  return found == names.end() ? std::nullopt : std::optional(*found);
}

struct Columns {
  std::vector<std::string> names;
  bool images = false;
};

/// Of images and captions: those that are given, or that are known by their names.
std::optional<Columns> image_columns(const RowFile& rows, const PairsOptions& options) {
  const auto choose = [&](const std::string& given, std::span<const std::string_view> known) {
    return given.empty() ? first_of(rows.names(), known) : std::optional(given);
  };
  const auto image = choose(options.image, kImageNames), caption = choose(options.caption, kCaptionNames);
  if (image && caption) return Columns{{*image, *caption}, true};
  if (options.image.empty() && options.caption.empty()) return std::nullopt;
  throw FileError(fmt::format("{}: cannot tell which column has the {}, found {}; say so by {}", rows.file().name(),
                              image ? "captions" : "images", listed(rows.names()),
                              image ? "--caption-column NAME" : "--image-column NAME"));
}

bool is_negative(std::string_view name) {
  return is_one_of(name, kNegativeNames, true) || is_one_of(name, kNegativeListNames, true);
}

/// The columns by their names, or in their order.
Columns known_columns(const RowFile& rows, const PairsOptions& options) {
  const std::vector<std::string>& names = rows.names();
  if (!options.image.empty() || !options.caption.empty()) return *image_columns(rows, options);
  if (!rows.named()) return {names};
  std::optional<std::string> anchor, positive;
  std::vector<std::string> negatives;
  for (const std::string& name : names) {
    if (!anchor && is_one_of(name, kAnchorNames)) anchor = name;
    if (!positive && is_one_of(name, kPositiveNames)) positive = name;
    if (is_negative(name)) negatives.push_back(name);
  }
  if (!anchor || !positive) {
    if (const auto images = image_columns(rows, options)) return *images;
    throw FileError(fmt::format(
        "{}: cannot tell which columns are anchor and positive, found {}; say so by --columns "
        "ANCHOR,POSITIVE, --image-column and --caption-column, or --no-header where the first row is a pair",
        rows.file().name(), names.empty() ? "nothing" : listed(names)));
  }
  Columns columns{{*anchor, *positive}};
  columns.names.insert(columns.names.end(), negatives.begin(), negatives.end());
  return columns;
}

/// What takes these columns as they are.
std::string options_for(const Columns& columns) {
  if (columns.images) return fmt::format("--image-column {} --caption-column {}", columns.names[0], columns.names[1]);
  return fmt::format("--columns {}", fmt::join(columns.names, ","));
}

/// Refuses what training on these columns would pass over or misread, unless they are the ones that were asked for.
void require_columns_as_meant(const RowFile& rows, const Columns& columns) {
  std::vector<std::string> all = rows.names();
  all.insert(all.end(), rows.other_names().begin(), rows.other_names().end());
  if (const auto label = first_of(all, kLabelNames)) {
    throw FileError(
        fmt::format("{}: column '{}' seems to say which rows belong together, or how nearly; it is not read, and every "
                    "row would be taken for one that does. Take out the rows that do not, and then say by {} that all "
                    "others do",
                    rows.file().name(), *label, options_for(columns)));
  }
  for (const std::string& name : columns.names) {
    if (rows.has_lists() || !is_one_of(name, kNegativeListNames, true)) continue;
    throw FileError(fmt::format(
        "{}: column '{}' seems to have lists, which only JSON Lines can hold; if each value is one text, say "
        "so by {}",
        rows.file().name(), name, options_for(columns)));
  }
}

/// Each chosen value of a row behind the other. Throws FileError for lists in the place of an anchor or a positive.
std::vector<Field> texts_of(RowFile::Values& values, const RowFile& rows, const std::vector<std::string>& columns,
                            std::size_t begin) {
  std::vector<Field> texts;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (i < 2 && values[i].size() != 1) {
      throw rows.file().error(values[i].empty() ? begin : values[i].front().offset,
                              fmt::format("'{}' is a list of {}, expected a text", columns[i], values[i].size()));
    }
    for (Field& value : values[i]) texts.push_back(std::move(value));
  }
  return texts;
}

void append(Pairs& pairs, std::vector<Field>& texts) {
  pairs.anchors.push_back(std::move(texts[0].text));
  pairs.positives.push_back(std::move(texts[1].text));
  for (std::size_t i = 2; i < texts.size(); ++i) pairs.negatives.push_back(std::move(texts[i].text));
}

/// The lines of places that come one behind the other, each line end being looked for once.
class LineCounter {
 public:
  explicit LineCounter(const TextFile& file) : file_(file) {}
  std::int64_t line_of(std::size_t place) {
    if (place > at_) line_ += std::ranges::count(file_.read(at_, place), '\n');
    at_ = std::max(at_, place);
    return line_;
  }

 private:
  const TextFile& file_;
  std::size_t at_ = 0;
  std::int64_t line_ = 1;
};

}  // namespace

ImageFile Pairs::image(std::int64_t row) const {
  const auto at = static_cast<std::size_t>(row);
  return {source.file.parent_path() / anchors[at], fmt::format("{}: line {}", source.file.string(), lines[at])};
}

FileError PairsSource::error(const std::string& text, const std::string& what) const {
  RowFile rows(file, header);
  rows.choose(columns);
  std::optional<std::size_t> place;
  rows.each([&](std::size_t, std::size_t, RowFile::Values& values) {
    for (const auto& column : values) {
      const auto found = std::ranges::find(column, text, &Field::text);
      if (!place && found != column.end()) place = found->offset;
    }
  });
  return place ? rows.file().error(*place, what) : FileError(fmt::format("{}: {}", file.string(), what));
}

PairsFile::PairsFile(const std::filesystem::path& path, const PairsOptions& options)
    : PairsFile(path, options, nullptr) {}

PairsFile::PairsFile(const std::filesystem::path& path, const PairsOptions& options, Pairs* all)
    : source_{path, options.header}, rows_(path, options.header) {
  choose(options);
  const std::vector<std::string>& columns = source_.columns;
  if (all) *all = no_pairs();
  const TextFile& file = rows_.file();
  LineCounter lines(file);
  rows_.each([&](std::size_t begin, std::size_t end, RowFile::Values& values) {
    std::vector<Field> texts = texts_of(values, rows_, columns, begin);
    const auto empty = std::ranges::find_if(texts, [](const Field& f) { return is_blank(f.text); });
    if (empty != texts.end()) {
      if (!options.skip_empty) {
        throw file.error(empty->offset, "the text is empty; --skip-empty passes over such rows");
      }
      ++skipped_;
      return;
    }
    const auto negatives = static_cast<std::int64_t>(texts.size() - 2);
    if (begins_.empty()) hard_negatives_ = negatives;
    if (negatives != hard_negatives_) {
      throw file.error(texts.front().offset, fmt::format("found {} hard negatives, expected {} as in the first row",
                                                         negatives, hard_negatives_));
    }
    if (images_) {
      std::error_code error;
      const std::filesystem::path image = path.parent_path() / texts[0].text;
      if (!std::filesystem::is_regular_file(image, error)) {
        throw file.error(texts[0].offset, fmt::format("there is no file {}, expected an image", image.string()));
      }
      lines_.push_back(lines.line_of(texts[0].offset));
    }
    for (std::size_t i = 0; i < 2 && begins_.empty() && !images_; ++i) {
      std::error_code error;
      const bool is_path =
          is_one_of(columns[i], kImageNames) ||
          (is_image(texts[i].text) && std::filesystem::is_regular_file(path.parent_path() / texts[i].text, error));
      if (is_path && paths_.empty()) paths_ = columns[i];
    }
    add(begin, end, texts);
    if (all) append(*all, texts);
  });
  if (size() == 0) {
    throw FileError(fmt::format("{}: holds no pair{}", path.string(),
                                skipped_ > 0 ? fmt::format(", but {} rows with an empty text", skipped_) : ""));
  }
  if (all) {
    all->lines.assign(lines_.begin(), lines_.end());
    all->hard_negatives = hard_negatives_;
    all->paths = paths_;
  }
}

void PairsFile::choose(const PairsOptions& options) {
  const bool asked = !options.columns.empty() || (!options.image.empty() && !options.caption.empty());
  const Columns chosen = options.columns.empty() ? known_columns(rows_, options) : Columns{options.columns};
  if (chosen.names.size() < 2) {
    throw FileError(fmt::format("{}: found {} column{}, expected at least an anchor and a positive",
                                source_.file.string(), chosen.names.size(), chosen.names.size() == 1 ? "" : "s"));
  }
  rows_.choose(chosen.names);
  if (!asked) {
    require_columns_as_meant(rows_, chosen);
    rows_.refuse_later([images = chosen.images](const std::string& name) {
      return is_one_of(name, kLabelNames) || (!images && is_negative(name));
    });
  }
  images_ = chosen.images;
  source_.columns = chosen.names;
  for (const auto* names : {&rows_.names(), &rows_.other_names()}) {
    std::ranges::copy_if(*names, std::back_inserter(source_.unused), [&](const std::string& name) {
      return std::ranges::find(chosen.names, name) == chosen.names.end();
    });
  }
}

void PairsFile::add(std::size_t begin, std::size_t end, const std::vector<Field>& texts) {
  if (end - begin > std::numeric_limits<std::uint32_t>::max()) {
    throw rows_.file().error(begin, fmt::format("found a row of {} bytes, expected less than 4 GiB", end - begin));
  }
  begins_.push_back(begin);
  bytes_.push_back(static_cast<std::uint32_t>(end - begin));
  Fingerprint anchor;
  anchor.add(texts.front().text);
  anchor_numbers_.push_back(static_cast<std::uint32_t>(anchor.value() >> 32));
  for (const Field& field : texts) fingerprint_.add(field.text);
}

Pairs PairsFile::no_pairs() const {
  return {.images = images_, .source = source_, .hard_negatives = hard_negatives_, .paths = paths_};
}

Pairs PairsFile::read(std::span<const std::int64_t> rows) const {
  Pairs pairs = no_pairs();
  try {
    for (const std::int64_t row : rows) {
      const auto at = static_cast<std::size_t>(row);
      RowFile::Values values = rows_.read(begins_[at], begins_[at] + bytes_[at]);
      std::vector<Field> texts;
      for (auto& column : values) std::ranges::move(column, std::back_inserter(texts));
      if (static_cast<std::int64_t>(texts.size()) != 2 + hard_negatives_) {
        throw rows_.file().error(begins_[at], "the row is not what it was when the file was opened");
      }
      append(pairs, texts);
      if (images_) pairs.lines.push_back(lines_[at]);
    }
  } catch (const FileError&) {
    rows_.file().require_unchanged();
    throw;
  }
  rows_.file().require_unchanged();
  return pairs;
}

Pairs PairsFile::take_out(std::span<const std::int64_t> rows) {
  Pairs taken = read(rows);
  std::deque<std::uint32_t> no_numbers;  // which needs memory
  const auto keep_others = [&]<class T>(std::deque<T>& of_pairs) {
    std::size_t kept = 0, next = 0;
    for (std::size_t i = 0; i < of_pairs.size(); ++i) {
      if (next < rows.size() && rows[next] == static_cast<std::int64_t>(i)) ++next;
      else of_pairs[kept++] = of_pairs[i];
    }
    of_pairs.resize(kept);
    of_pairs.shrink_to_fit();
  };
  keep_others(begins_);
  keep_others(bytes_);
  keep_others(lines_);
  no_numbers.swap(anchor_numbers_);
  return taken;
}

Pairs read_pairs(const std::filesystem::path& path, const PairsOptions& options) {
  Pairs all;
  PairsFile(path, options, &all);
  return all;
}

namespace {

/// Goes through the texts of a file, with where each stands in it.
void each_text(const std::filesystem::path& path, const TextsOptions& options,
               const std::function<void(const TextFile&, std::string, std::size_t)>& use) {
  if (lower(path.extension().string()) == ".txt") {
    const TextFile file(path);
    for (TextReader reader(file); !reader.text().empty();) {
      const std::size_t end = std::min(reader.text().find('\n'), reader.text().size());
      std::string_view line = reader.text().substr(0, end);
      if (line.ends_with('\r')) line.remove_suffix(1);
      use(file, std::string(line), reader.place());
      reader.skip(std::min(end + 1, reader.text().size()));
    }
    return;
  }
  RowFile rows(path, options.header);
  std::string column = options.column;
  if (column.empty() && rows.names().size() == 1) column = rows.names().front();
  for (const std::string& name : rows.names()) {
    if (column.empty() && (options.images ? is_one_of(name, kImageNames) : is_one_of(name, kTextNames))) column = name;
  }
  if (column.empty()) {
    throw FileError(fmt::format("{}: cannot tell which column has the {}, found {}; say so by --column NAME",
                                path.string(), options.images ? "images" : "texts",
                                rows.names().empty() ? "nothing" : listed(rows.names())));
  }
  rows.choose({column});
  rows.each([&](std::size_t begin, std::size_t, RowFile::Values& values) {
    if (values[0].size() != 1) {
      throw rows.file().error(values[0].empty() ? begin : values[0].front().offset,
                              fmt::format("'{}' is a list of {}, expected a text", column, values[0].size()));
    }
    use(rows.file(), std::move(values[0][0].text), values[0][0].offset);
  });
}

}  // namespace

std::vector<std::string> read_texts(const std::filesystem::path& path, const TextsOptions& options) {
  std::vector<std::string> texts;
  each_text(path, options, [&](const TextFile& file, std::string text, std::size_t place) {
    if (is_blank(text)) throw file.error(place, "the text is empty, expected one for each row of the vectors");
    texts.push_back(std::move(text));
  });
  if (texts.empty()) throw FileError(fmt::format("{}: holds no text", path.string()));
  return texts;
}

FileError text_error(const std::filesystem::path& path, const TextsOptions& options, const std::string& text,
                     const std::string& what) {
  std::optional<FileError> error;
  each_text(path, options, [&](const TextFile& file, const std::string& found, std::size_t place) {
    if (!error && found == text) error = file.error(place, what);
  });
  return error ? *error : FileError(fmt::format("{}: {}", path.string(), what));
}

}  // namespace tapecache::program
