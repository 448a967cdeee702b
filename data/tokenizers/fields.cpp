#include "tapecache/data/tokenizers/fields.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tapecache/data/tokenizers/unicode.h"

namespace tapecache::data::tokenizers {

namespace {

using Json = nlohmann::json;

constexpr std::uintmax_t kMaxBytes = std::uintmax_t{1} << 30;
constexpr int kMaxDepth = 64;

const Json& json(const void* value) { return *static_cast<const Json*>(value); }

/// Where `wanted` is below `value`, with a dot first.
std::optional<std::string> path_below(const Json& value, const void* wanted) {
  if (&value == wanted) return std::string();
  if (!value.is_structured()) return std::nullopt;
  std::size_t index = 0;
  for (auto item = value.begin(); item != value.end(); ++item, ++index) {
    if (const auto below = path_below(*item, wanted)) {
      return (value.is_object() ? "." + item.key() : fmt::format("[{}]", index)) + *below;
    }
  }
  return std::nullopt;
}

}  // namespace

struct JsonFile::Document {
  Json root;
};

std::string file_bytes(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    throw FileError(fmt::format("{}: a folder, expected a file", path.string()));
  }
  std::ifstream in(path, std::ios::binary);
  if (!in) throw FileError(fmt::format("{}: cannot be read: {}", path.string(), std::strerror(errno)));
  std::string bytes;
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  if (!error && size <= kMaxBytes) bytes.reserve(size);
  char block[1 << 16];
  while (in.read(block, sizeof(block)) || in.gcount() > 0) {
    bytes.append(block, static_cast<std::size_t>(in.gcount()));
    if (bytes.size() > kMaxBytes) {
      throw FileError(fmt::format("{}: more than {} bytes, which no tokenizer has", path.string(), kMaxBytes));
    }
  }
  if (in.bad()) throw FileError(fmt::format("{}: cannot be read: {}", path.string(), std::strerror(errno)));
  return bytes;
}

JsonFile::JsonFile(const std::filesystem::path& path) : path_(path) { parse(file_bytes(path)); }

JsonFile::JsonFile(std::filesystem::path path, std::string_view text) : path_(std::move(path)) { parse(text); }

JsonFile::~JsonFile() = default;

void JsonFile::parse(std::string_view text) {
  int depth = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char byte = text[i];
    if (quoted && byte == '\\') ++i;
    else if (byte == '"') quoted = !quoted;
    else if (!quoted && (byte == '{' || byte == '[') && ++depth > kMaxDepth)
      throw FileError(fmt::format("{}: nests more than {} objects or arrays", path_.string(), kMaxDepth));
    else if (!quoted && (byte == '}' || byte == ']')) --depth;
  }
  document_ = std::make_unique<Document>();
  try {
    document_->root = Json::parse(text);
  } catch (const Json::parse_error& error) {
    throw FileError(fmt::format("{}: not JSON at byte {}", path_.string(), error.byte));
  } catch (const Json::exception& error) {
    throw FileError(fmt::format("{}: not JSON: {}", path_.string(), error.what()));
  }
  if (!document_->root.is_object()) {
    throw FileError(fmt::format("{}: {}, expected an object", path_.string(), document_->root.type_name()));
  }
}

Field JsonFile::root() const { return Field(*this, &document_->root); }

std::string JsonFile::name_of(const void* value) const {
  std::string path = path_below(document_->root, value).value_or("");
  if (!path.empty() && path.front() == '.') path.erase(0, 1);
  return path;
}

FileError Field::refused(const std::string& what) const {
  const std::string name = file_->name_of(value_);
  return FileError(name.empty() ? fmt::format("{}: {}", file_->path_.string(), what)
                                : fmt::format("{}: '{}': {}", file_->path_.string(), name, what));
}

bool Field::is_null() const { return json(value_).is_null(); }
bool Field::is_string() const { return json(value_).is_string(); }
bool Field::is_array() const { return json(value_).is_array(); }
bool Field::is_object() const { return json(value_).is_object(); }

const std::string& Field::string() const {
  if (!is_string()) throw refused(fmt::format("{}, expected a string", json(value_).type_name()));
  return json(value_).get_ref<const std::string&>();
}

const std::string& Field::character() const {
  const std::string& text = string();
  if (count_characters(text) != 1) throw refused(fmt::format("'{}', expected one character", text));
  return text;
}

bool Field::boolean() const {
  if (!json(value_).is_boolean()) throw refused(fmt::format("{}, expected a boolean", json(value_).type_name()));
  return json(value_).get<bool>();
}

double Field::number() const {
  if (!json(value_).is_number()) throw refused(fmt::format("{}, expected a number", json(value_).type_name()));
  return json(value_).get<double>();
}

std::int64_t Field::integer(std::int64_t end) const {
  const Json& value = json(value_);
  if (!value.is_number_unsigned())
    throw refused(fmt::format("{}, expected an integer from 0", value.is_number() ? value.dump() : value.type_name()));
  const auto found = value.get<std::uint64_t>();
  if (found >= static_cast<std::uint64_t>(end)) throw refused(fmt::format("{}, expected less than {}", found, end));
  return static_cast<std::int64_t>(found);
}

std::int32_t Field::id() const { return static_cast<std::int32_t>(integer(kMaxTokens)); }

std::size_t Field::size() const {
  if (!is_array()) throw refused(fmt::format("{}, expected an array", json(value_).type_name()));
  return json(value_).size();
}

Field Field::operator[](std::size_t index) const {
  if (index >= size()) throw refused(fmt::format("{} elements, expected more than {}", size(), index));
  return Field(*file_, &json(value_)[index]);
}

Field Field::at(std::string_view key) const {
  if (!has(key)) throw refused(fmt::format("has no '{}'", key));
  return Field(*file_, &*json(value_).find(key));
}

std::optional<Field> Field::find(std::string_view key) const {
  if (!has(key)) return std::nullopt;
  const Field found = at(key);
  return found.is_null() ? std::nullopt : std::optional(found);
}

bool Field::has(std::string_view key) const {
  if (!is_object()) throw refused(fmt::format("{}, expected an object", json(value_).type_name()));
  return json(value_).find(key) != json(value_).end();
}

bool Field::boolean_or(std::string_view key, bool otherwise) const {
  const auto found = find(key);
  return found ? found->boolean() : otherwise;
}

void Field::for_each(const std::function<void(const std::string&, const Field&)>& visit) const {
  if (!is_object()) throw refused(fmt::format("{}, expected an object", json(value_).type_name()));
  for (auto item = json(value_).begin(); item != json(value_).end(); ++item) visit(item.key(), Field(*file_, &*item));
}

void Field::check_keys(std::initializer_list<std::string_view> known) const {
  for_each([&](const std::string& key, const Field& value) {
    if (std::ranges::find(known, key) == known.end()) throw value.refused("a field that is not supported");
  });
}

}  // namespace tapecache::data::tokenizers
