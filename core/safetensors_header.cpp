#include "tapecache/core/safetensors_header.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tapecache/core/error.h"

namespace tapecache::detail {

namespace {

struct Type {
  const char* name;
  unsigned bits;
  std::optional<DType> dtype;
};

constexpr std::array<Type, 20> kTypes{{{"F32", 32, DType::kFloat32},
                                       {"F64", 64, DType::kFloat64},
                                       {"BF16", 16, DType::kBFloat16},
                                       {"F16", 16, DType::kFloat16},
                                       {"I32", 32, DType::kInt32},
                                       {"I64", 64, DType::kInt64},
                                       {"U8", 8, DType::kUInt8},
                                       {"BOOL", 8, DType::kBool},
                                       {"I8", 8, {}},
                                       {"I16", 16, {}},
                                       {"U16", 16, {}},
                                       {"U32", 32, {}},
                                       {"U64", 64, {}},
                                       {"C64", 64, {}},
                                       {"F8_E4M3", 8, {}},
                                       {"F8_E5M2", 8, {}},
                                       {"F8_E8M0", 8, {}},
                                       {"F6_E2M3", 6, {}},
                                       {"F6_E3M2", 6, {}},
                                       {"F4", 4, {}}}};

const Type* type_of(std::string_view name) {
  const auto* const found = std::find_if(kTypes.begin(), kTypes.end(), [&](const Type& t) { return name == t.name; });
  return found == kTypes.end() ? nullptr : found;
}

}  // namespace

std::optional<DType> safetensors_dtype(std::string_view type) {
  const Type* const found = type_of(type);
  return found ? found->dtype : std::nullopt;
}

const char* safetensors_type(DType dtype) {
  return std::find_if(kTypes.begin(), kTypes.end(), [&](const Type& t) { return t.dtype == dtype; })->name;
}

/// Takes the events of nlohmann's parser. It writes names, types and sizes over the part of the text that has been
/// read: none of them takes more bytes than what it was read from.
class SafetensorsHeader::Parser {
 public:
  Parser(const std::string& where, SafetensorsHeader& header) : where_(where), header_(header), text_(header.packed_) {}

  /// Fills the header but for the order of its entries.
  void run() {
    // The library takes a NUL for the end of its input, and passes over a byte order mark.
    if (text_.find('\0') != std::string::npos) throw refused("its header holds a NUL byte");
    if (text_.starts_with("\xEF\xBB\xBF")) throw refused("its header begins with a byte order mark, expected '{'");
    text_.resize(text_.find_last_not_of(" \t\r\n") + 1);
    nlohmann::json::sax_parse(Cursor{this}, Cursor{nullptr}, this);
    const bool mostly_free = written_ < text_.size() / 2;
    text_.resize(written_);
    if (mostly_free) text_.shrink_to_fit();  // which copies what is left
  }

  bool start_object(std::size_t) {
    if (depth_ == 1 && in_metadata_) {
      if (metadata_seen_) throw refused("an object of its header has two keys '__metadata__'");
      metadata_seen_ = true;
    } else if (depth_ >= 2 && (in_metadata_ || field_ != kOther)) {
      wrong("object");
    }
    return open();
  }
  bool end_object() {
    --depth_;
    if (depth_ == 1 && !in_metadata_) end_entry();
    return event();
  }
  bool start_array(std::size_t) {
    if (depth_ == 2 && !in_metadata_ && (field_ == kShape || field_ == kOffsets)) count_ = 0;
    else if (depth_ < 2 || in_metadata_ || field_ != kOther) wrong("array");
    return open();
  }
  bool end_array() {
    --depth_;
    if (depth_ != 2) return event();
    if (field_ == kShape) entry_.rank = count_;
    if (field_ == kOffsets && count_ != 2) throw bad("bad data_offsets");
    return event();
  }
  bool key(std::string& text) {
    if (depth_ == 1) {
      in_metadata_ = text == "__metadata__";
      if (!in_metadata_) begin_entry(text);
    } else if (depth_ == 2 && in_metadata_) {
      if (header_.metadata_.size() == kMaxSafetensorsMetadata) {
        throw refused(fmt::format("its metadata has more than {} keys", kMaxSafetensorsMetadata));
      }
      header_.metadata_.emplace_back(pack(text), Text{});
    } else if (depth_ == 2) {
      field_ = text == "dtype" ? kType : text == "shape" ? kShape : text == "data_offsets" ? kOffsets : kOther;
      if (field_ != kOther && (std::exchange(seen_, seen_ | 1u << field_) & 1u << field_)) {
        throw bad(fmt::format("an object of its header has two keys '{}'", text));
      }
    }
    return event();
  }
  bool string(std::string& text) {
    if (depth_ == 2 && in_metadata_) {
      header_.metadata_.back().second = pack(text);
    } else if (depth_ == 2 && field_ == kType) {
      entry_.type = pack(text);
    } else {
      unexpected("string");
    }
    return event();
  }
  bool number_unsigned(std::uint64_t number) {
    if (depth_ != 3 || in_metadata_ || field_ == kOther) return unexpected("number");
    if (number >> 62) throw bad(fmt::format("bad {}", field_name()));
    if (field_ == kOffsets) {
      if (count_ == 2) throw bad("bad data_offsets");
      (count_ == 0 ? entry_.begin : entry_.end) = number;
    } else {
      if (count_ == kMaxSafetensorsRank) throw bad(fmt::format("bad shape: more than {} axes", kMaxSafetensorsRank));
      if (count_ == 0) entry_.sizes = static_cast<std::uint32_t>(written_);
      for (std::uint64_t rest = number;; rest >>= 7) {  // seven bits a byte; the highest says that more follow
        put(static_cast<char>(rest > 127 ? (rest & 127) | 128 : rest));
        if (rest <= 127) break;
      }
      if (__builtin_mul_overflow(elements_, number, &elements_)) throw bad("bad shape: too many elements");
    }
    ++count_;
    return event();
  }
  bool null() {
    if (depth_ == 1 && in_metadata_) return event();  // none, as to the reference
    return unexpected("null");
  }
  bool boolean(bool) { return unexpected("boolean"); }
  bool number_integer(std::int64_t) { return unexpected("number"); }
  bool number_float(double, const std::string&) { return unexpected("number"); }
  bool binary(std::vector<std::uint8_t>&) { return unexpected("binary"); }
  bool parse_error(std::size_t at, const std::string&, const nlohmann::json::exception&) {
    throw refused(fmt::format("its header is not JSON at byte {}", at));
  }

 private:
  enum Field : unsigned { kNone, kType, kShape, kOffsets, kOther };

  /// Of the text, a character at a time. The library keeps what it has read since its last event, so that is bounded.
  struct Cursor {
    using iterator_category = std::input_iterator_tag;
    using value_type = char;
    using difference_type = std::ptrdiff_t;
    using pointer = const char*;
    using reference = char;

    Parser* parser;  // null: the end

    char operator*() const { return parser->text_[parser->read_]; }
    Cursor& operator++() {
      if (++parser->read_ - parser->event_ > kMaxSafetensorsText) {
        throw parser->refused(
            fmt::format("a name, text or blank of its header is longer than {} bytes", kMaxSafetensorsText));
      }
      return *this;
    }
    bool operator==(const Cursor& other) const {
      const Parser* const either = parser ? parser : other.parser;
      return either->read_ == either->text_.size();
    }
  };

  FileError refused(const std::string& what) const { return FileError(fmt::format("{}: {}", where_, what)); }
  FileError bad(const std::string& what) const {
    return refused(fmt::format("tensor '{}': {}", header_.text(entry_.name), what));
  }
  const char* field_name() const { return field_ == kType ? "dtype" : field_ == kShape ? "shape" : "data_offsets"; }

  /// For a value of this kind where there can be none.
  void wrong(const char* kind) const {
    if (depth_ == 0) throw refused("its header is not a JSON object");
    if (in_metadata_ && depth_ == 1) throw refused("its metadata is not a JSON object");
    if (in_metadata_) {
      throw refused(fmt::format("metadata '{}' is not a string", header_.text(header_.metadata_.back().first)));
    }
    if (depth_ == 1) throw bad("dtype, shape and data_offsets expected");
    if (depth_ == 2 && field_ == kType) throw bad(fmt::format("dtype is of type {}, expected string", kind));
    throw bad(fmt::format("bad {}", field_name()));
  }
  /// The same, where an entry may have more than is known.
  bool unexpected(const char* kind) {
    if (depth_ < 2 || in_metadata_ || field_ != kOther) wrong(kind);
    return event();
  }

  bool event() {
    event_ = read_;
    return true;
  }
  bool open() {
    if (++depth_ > 3) throw refused("its header nests more than three objects or arrays");
    return event();
  }

  void put(char byte) { text_[written_++] = byte; }
  Text pack(const std::string& text) {
    const Text place{static_cast<std::uint32_t>(written_), static_cast<std::uint32_t>(text.size())};
    text.copy(text_.data() + written_, text.size());
    written_ += text.size();
    return place;
  }

  void begin_entry(const std::string& name) {
    entry_ = {};
    entry_.name = pack(name);
    field_ = kNone;
    seen_ = 0;
    elements_ = 1;
  }
  void end_entry() {
    if (seen_ != (1u << kType | 1u << kShape | 1u << kOffsets)) throw bad("dtype, shape and data_offsets expected");
    if (entry_.end < entry_.begin) throw bad("bad data_offsets");
    const std::uint64_t bytes = entry_.end - entry_.begin;
    std::uint64_t bits = 0;
    const Type* const type = type_of(header_.text(entry_.type));
    if (type &&
        (__builtin_mul_overflow(elements_, std::uint64_t{type->bits}, &bits) || bits % 8 != 0 || bits / 8 != bytes)) {
      throw bad(fmt::format("{} bytes of data for {} elements of type {}", bytes, elements_, type->name));
    }
    header_.entries_.push_back(entry_);
  }

  const std::string& where_;
  SafetensorsHeader& header_;
  std::string& text_;
  std::size_t read_ = 0, written_ = 0, event_ = 0;

  int depth_ = 0;
  bool in_metadata_ = false, metadata_seen_ = false;
  Entry entry_;
  Field field_ = kNone;
  unsigned seen_ = 0;  // a bit for each field of the entry
  std::uint32_t count_ = 0;
  std::uint64_t elements_ = 1;
};

SafetensorsHeader::SafetensorsHeader(const std::string& where, std::string text, std::uint64_t data_bytes)
    : packed_(std::move(text)) {
  Parser(where, *this).run();
  check_offsets(where, data_bytes);
  sort_by_name(where);
}

void SafetensorsHeader::check_offsets(const std::string& where, std::uint64_t data_bytes) {
  std::sort(entries_.begin(), entries_.end(),
            [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  std::uint64_t expected = 0;
  for (const Entry& entry : entries_) {
    if (entry.end > data_bytes) {
      throw FileError(fmt::format("{}: tensor '{}': its data ends at byte {} of {}: the file is truncated or malformed",
                                  where, text(entry.name), entry.end, data_bytes));
    }
    if (entry.begin != expected) {
      throw FileError(fmt::format("{}: tensor '{}' begins at byte {}, expected {}: data overlap or leave a hole", where,
                                  text(entry.name), entry.begin, expected));
    }
    expected = entry.end;
  }
  if (expected != data_bytes) {
    throw FileError(fmt::format("{}: {} bytes of data, but its tensors take {}", where, data_bytes, expected));
  }
}

void SafetensorsHeader::sort_by_name(const std::string& where) {
  const auto name_of = [&](const Entry& entry) { return text(entry.name); };
  std::ranges::sort(entries_, {}, name_of);
  if (const auto twin = std::ranges::adjacent_find(entries_, {}, name_of); twin != entries_.end()) {
    throw FileError(fmt::format("{}: two tensors are named '{}'", where, name_of(*twin)));
  }
  const auto key_of = [&](const std::pair<Text, Text>& entry) { return text(entry.first); };
  std::ranges::sort(metadata_, {}, key_of);
  if (const auto twin = std::ranges::adjacent_find(metadata_, {}, key_of); twin != metadata_.end()) {
    throw FileError(fmt::format("{}: its metadata has two keys '{}'", where, key_of(*twin)));
  }
}

const SafetensorsHeader::Entry* SafetensorsHeader::find(std::string_view name) const {
  const auto name_of = [&](const Entry& entry) { return text(entry.name); };
  const auto found = std::ranges::lower_bound(entries_, name, {}, name_of);
  return found != entries_.end() && name_of(*found) == name ? &*found : nullptr;
}

std::optional<std::string_view> SafetensorsHeader::metadata_of(std::string_view key) const {
  const auto key_of = [&](const std::pair<Text, Text>& entry) { return text(entry.first); };
  const auto found = std::ranges::lower_bound(metadata_, key, {}, key_of);
  return found != metadata_.end() && key_of(*found) == key ? std::optional(text(found->second)) : std::nullopt;
}

std::vector<std::int64_t> SafetensorsHeader::sizes(const Entry& entry) const {
  std::vector<std::int64_t> sizes;
  std::uint64_t size = 0;
  unsigned shift = 0;
  for (std::size_t place = entry.sizes; sizes.size() < entry.rank; ++place) {
    const auto byte = static_cast<std::uint8_t>(packed_[place]);
    size |= std::uint64_t{byte & 127u} << shift;
    shift += 7;
    if (byte > 127) continue;
    sizes.push_back(static_cast<std::int64_t>(size));
    size = shift = 0;
  }
  return sizes;
}

}  // namespace tapecache::detail
