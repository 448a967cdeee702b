#include "tapecache/data/tokenizers/fields.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "tapecache/core/json_fields.h"
#include "tapecache/data/tokenizers/unicode.h"

namespace tapecache::data::tokenizers {

namespace {

/// Where `wanted` is below `value`, with a dot before a name.
std::optional<std::string> path_below(const Json& value, const Json& wanted) {
  if (&value == &wanted) return std::string();
  for (std::size_t i = 0; i < value.items.size(); ++i) {
    if (const auto below = path_below(value.items[i], wanted)) return fmt::format("[{}]", i) + *below;
  }
  for (const auto& [name, member] : value.members) {
    if (const auto below = path_below(member, wanted)) return "." + name + *below;
  }
  return std::nullopt;
}

}  // namespace

std::string file_bytes(const std::filesystem::path& path) {
  return tapecache::detail::read_small_file(path, std::uint64_t{1} << 30);
}

JsonFile::JsonFile(const std::filesystem::path& path)
    : JsonFile(path, tapecache::detail::parse_json(path.string(), file_bytes(path))) {}

JsonFile::JsonFile(std::filesystem::path path, Json root) : path_(std::move(path)), root_(std::move(root)) {
  if (!root_.is(Json::Kind::kObject)) {
    throw FileError(tapecache::detail::unexpected(path_.string(), "", &root_, "a JSON object"));
  }
}

std::string JsonFile::name_of(const Json& value) const {
  std::string path = path_below(root_, value).value_or("");
  if (!path.empty() && path.front() == '.') path.erase(0, 1);
  return path;
}

FileError Field::refused(const std::string& what) const {
  const std::string name = file_->name_of(*value_);
  return FileError(name.empty() ? fmt::format("{}: {}", file_->path_.string(), what)
                                : fmt::format("{}: {}: {}", file_->path_.string(), name, what));
}

FileError Field::unexpected(std::string_view expected) const {
  return FileError(tapecache::detail::unexpected(file_->path_.string(), file_->name_of(*value_), value_, expected));
}

bool Field::is_null() const { return value_->is(Json::Kind::kNull); }
bool Field::is_string() const { return value_->is(Json::Kind::kString); }
bool Field::is_array() const { return value_->is(Json::Kind::kArray); }
bool Field::is_object() const { return value_->is(Json::Kind::kObject); }

const std::string& Field::string() const {
  if (!is_string()) throw unexpected("a text");
  return value_->text;
}

const std::string& Field::character() const {
  const std::string& text = string();
  if (count_characters(text) != 1) throw refused(fmt::format("'{}', expected one character", text));
  return text;
}

bool Field::boolean() const {
  if (!value_->is(Json::Kind::kBool)) throw unexpected("true or false");
  return value_->flag;
}

double Field::number() const {
  const std::optional<double> number = value_->number();
  if (!number) throw unexpected("a number");
  return *number;
}

std::int64_t Field::integer(std::int64_t end) const {
  const std::optional<std::int64_t> found = value_->integer();
  if (!found || *found < 0 || *found >= end) throw unexpected(fmt::format("a whole number from 0 to {}", end - 1));
  return *found;
}

std::int32_t Field::id() const { return static_cast<std::int32_t>(integer(kMaxTokens)); }

std::size_t Field::size() const {
  if (!is_array()) throw unexpected("a list");
  return value_->items.size();
}

Field Field::operator[](std::size_t index) const {
  if (index >= size()) throw refused(fmt::format("{} elements, expected more than {}", size(), index));
  return Field(*file_, &value_->items[index]);
}

const Json* Field::member(std::string_view key) const {
  if (!is_object()) throw unexpected("an object");
  return value_->find(key);
}

Field Field::at(std::string_view key) const {
  const Json* const found = member(key);
  if (!found) throw refused(fmt::format("has no '{}'", key));
  return Field(*file_, found);
}

std::optional<Field> Field::find(std::string_view key) const {
  const Json* const found = member(key);
  return found && !found->is(Json::Kind::kNull) ? std::optional(Field(*file_, found)) : std::nullopt;
}

bool Field::has(std::string_view key) const { return member(key) != nullptr; }

bool Field::boolean_or(std::string_view key, bool otherwise) const {
  const auto found = find(key);
  return found ? found->boolean() : otherwise;
}

void Field::for_each(const std::function<void(const std::string&, const Field&)>& visit) const {
  if (!is_object()) throw unexpected("an object");
  std::unordered_map<std::string_view, const Json*> last;
  last.reserve(value_->members.size());
  for (const auto& [name, member] : value_->members) last[name] = &member;
  for (const auto& [name, member] : value_->members) {
    if (last.find(name)->second == &member) visit(name, Field(*file_, &member));
  }
}

void Field::check_keys(std::initializer_list<std::string_view> known) const {
  for_each([&](const std::string& key, const Field& value) {
    if (std::ranges::find(known, key) == known.end()) throw value.refused("a field that is not supported");
  });
}

}  // namespace tapecache::data::tokenizers
