#include "tapecache/data/npy.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "tapecache/core/files.h"

namespace tapecache::data {

namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::size_t kAlignment = 64;  // of the elements, which NumPy may map into memory

struct NamedType {
  std::string_view name;
  DType dtype;
};
constexpr std::array kTypes{NamedType{"<f2", DType::kFloat16}, NamedType{"<f4", DType::kFloat32},
                            NamedType{"<f8", DType::kFloat64}, NamedType{"<i4", DType::kInt32},
                            NamedType{"<i8", DType::kInt64},   NamedType{"|u1", DType::kUInt8},
                            NamedType{"|b1", DType::kBool}};

/// The header is a Python dict of three entries. This reads just what such a dict can hold.
class HeaderParser {
 public:
  explicit HeaderParser(std::string_view text) : text_(text) {}

  std::map<std::string, std::string, std::less<>> strings_and_flags;
  std::optional<std::vector<std::int64_t>> shape;

  bool parse() {
    if (!take('{')) return false;
    while (!take('}')) {
      const std::optional<std::string> key = quoted();
      if (!key || !take(':') || !value(*key)) return false;
      if (!take(',') && !peek('}')) return false;
    }
    skip_spaces();
    return text_.empty();
  }

 private:
  void skip_spaces() { text_.remove_prefix(std::min(text_.find_first_not_of(" \t\r\n"), text_.size())); }
  bool peek(char c) {
    skip_spaces();
    return text_.starts_with(c);
  }
  bool take(char c) {
    if (!peek(c)) return false;
    text_.remove_prefix(1);
    return true;
  }
  std::optional<std::string> quoted() {
    for (const char quote : {'\'', '"'}) {
      if (!take(quote)) continue;
      const std::size_t end = text_.find(quote);
      if (end == std::string_view::npos) return {};
      std::string result(text_.substr(0, end));
      text_.remove_prefix(end + 1);
      return result;
    }
    return {};
  }
  bool value(const std::string& key) {
    if (peek('(')) return !shape && key == "shape" && tuple();
    if (peek('\'') || peek('"')) {
      const auto text = quoted();
      return text && strings_and_flags.emplace(key, *text).second;
    }
    for (const std::string_view flag : {"True", "False"}) {
      if (!text_.starts_with(flag)) continue;
      text_.remove_prefix(flag.size());
      return strings_and_flags.emplace(key, flag).second;
    }
    return false;
  }
  bool tuple() {
    shape.emplace();
    if (!take('(')) return false;
    while (!take(')')) {
      skip_spaces();
      std::int64_t size = 0;
      const auto [end, error] = std::from_chars(text_.data(), text_.data() + text_.size(), size);
      if (error != std::errc() || size < 0) return false;
      text_.remove_prefix(static_cast<std::size_t>(end - text_.data()));
      shape->push_back(size);
      if (!take(',') && !peek(')')) return false;
    }
    return true;
  }

  std::string_view text_;
};

}  // namespace

Tensor read_npy(const std::filesystem::path& path) {
  const auto fail = [&path](const std::string& what) { return FileError(fmt::format("{}: {}", path.string(), what)); };
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) throw fail("no such file, expected an array in .npy format");
  std::ifstream file(path, std::ios::binary);
  const auto size = std::filesystem::file_size(path, error);
  if (!file || error) throw fail("cannot be opened");

  std::array<char, 12> start{};
  file.read(start.data(), start.size());
  const auto got = static_cast<std::size_t>(file.gcount());
  if (got < 10 || std::string_view(start.data(), kMagic.size()) != kMagic) {
    throw fail("is no .npy file: it does not begin with \\x93NUMPY");
  }
  const int version = static_cast<unsigned char>(start[6]);
  if (version < 1 || version > 3) throw fail(fmt::format("is of .npy format {}, expected 1, 2 or 3", version));
  std::uint32_t length = 0;
  const std::size_t length_bytes = version == 1 ? 2 : 4;
  std::memcpy(&length, start.data() + 8, length_bytes);
  const std::uint64_t begin = 8 + length_bytes + length;
  if (got < 8 + length_bytes || begin > size) {
    throw fail(fmt::format("is truncated: its header ends at byte {}, the file has {}", begin, size));
  }
  if (length > 65536) throw fail(fmt::format("has a header of {} bytes, expected at most 65536", length));
  std::string header(length, '\0');
  file.clear();
  file.seekg(static_cast<std::streamoff>(8 + length_bytes));
  file.read(header.data(), static_cast<std::streamsize>(length));
  if (!file) throw fail("cannot be read");

  HeaderParser parser(header);
  const bool parsed = parser.parse();
  const auto entry = [&](std::string_view key) {
    const auto found = parser.strings_and_flags.find(key);
    return found == parser.strings_and_flags.end() ? std::string() : found->second;
  };
  const std::string descr = entry("descr"), fortran = entry("fortran_order");
  if (!parsed || descr.empty() || (fortran != "True" && fortran != "False") || !parser.shape) {
    throw fail("has a malformed header, expected a dict of 'descr', 'fortran_order' and 'shape'");
  }
  const auto type = std::ranges::find(kTypes, std::string_view(descr), &NamedType::name);
  if (type == kTypes.end()) {
    std::string names;
    for (const NamedType& t : kTypes) names += fmt::format("{}{}", names.empty() ? "" : ", ", t.name);
    throw fail(fmt::format("holds elements of type '{}', expected one of {}", descr, names));
  }
  if (fortran == "True") throw fail("is in Fortran order, expected C order (numpy.ascontiguousarray)");
  if (parser.shape->size() > Shape::kMaxRank) {
    throw fail(fmt::format("has {} axes, expected at most {}", parser.shape->size(), Shape::kMaxRank));
  }
  // The file's size bounds what is asked for, before anything is.
  std::uint64_t elements = 1;
  const bool none = std::ranges::find(*parser.shape, 0) != parser.shape->end();
  for (const std::int64_t axis : *parser.shape) {
    if (!none && elements > size / static_cast<std::uint64_t>(axis)) {
      throw fail(fmt::format("is truncated: it has {} bytes, fewer than its shape needs", size));
    }
    elements = none ? 0 : elements * static_cast<std::uint64_t>(axis);
  }
  const std::uint64_t expected = begin + elements * size_of(type->dtype);
  if (expected != size) {
    throw fail(fmt::format("has {} bytes, its header says {}", size, expected));
  }
  Tensor result;
  try {
    result = Tensor::empty(Shape(std::span<const std::int64_t>(*parser.shape)), type->dtype);
  } catch (const ShapeError& e) {
    throw fail(e.what());
  }
  file.read(reinterpret_cast<char*>(result.mutable_raw()), static_cast<std::streamsize>(result.bytes()));
  if (!file) throw fail("cannot be read");
  if (type->dtype == DType::kBool) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(result.raw());
    if (std::any_of(bytes, bytes + result.bytes(), [](unsigned char b) { return b > 1; })) {
      throw fail("holds a flag that is neither 0 nor 1");
    }
  }
  return result;
}

void write_npy(const std::filesystem::path& path, const Tensor& tensor) {
  const auto type = std::ranges::find(kTypes, tensor.dtype(), &NamedType::dtype);
  if (type == kTypes.end()) {
    throw DTypeError(fmt::format("write_npy: {} has no name in NumPy, expected another type", name(tensor.dtype())));
  }
  std::string shape;
  for (const std::int64_t size : tensor.shape()) shape += fmt::format("{}, ", size);
  if (tensor.rank() > 1) shape.resize(shape.size() - 2);
  std::string header = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}", type->name, shape);
  const std::size_t prefix = kMagic.size() + 4;
  header.append(kAlignment - 1 - (prefix + header.size()) % kAlignment, ' ').push_back('\n');
  const auto length = static_cast<std::uint16_t>(header.size());
  std::string start(kMagic);
  start.append({'\1', '\0', static_cast<char>(length & 0xff), static_cast<char>(length >> 8)});
  const Tensor host = tensor.to(Device::cpu());
  const std::string_view parts[] = {start, header, {reinterpret_cast<const char*>(host.raw()), host.bytes()}};
  write_file_atomically(path, parts);
}

}  // namespace tapecache::data
