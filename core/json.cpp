#include "tapecache/core/json.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <system_error>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tapecache/core/error.h"

namespace tapecache::detail {

namespace {

constexpr std::size_t kDeepest = 64;
constexpr std::uint64_t kMostBytes = 4 << 20;

/// Takes the events of nlohmann's parser. Its own values are not made, since they may allocate where they are
/// destroyed, and then end the process for lack of memory.
class Parser {
 public:
  explicit Parser(const std::string& where) : where_(where) {}

  Json result;

  bool null() { return put({}); }
  bool boolean(bool value) { return put(Json::of(value)); }
  bool number_integer(std::int64_t value) { return put(Json::of(value)); }
  bool number_unsigned(std::uint64_t value) {
    return put({.kind = Json::Kind::kNumber, .text = fmt::to_string(value)});
  }
  bool number_float(double, const std::string& text) { return put({.kind = Json::Kind::kNumber, .text = text}); }
  bool string(std::string& text) { return put(Json::of(std::string_view(text))); }
  bool binary(std::vector<std::uint8_t>&) { return false; }
  bool start_object(std::size_t) { return open(Json::object()); }
  bool start_array(std::size_t) { return open(Json::array()); }
  bool key(std::string& text) {
    names_.back() = text;
    return true;
  }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool parse_error(std::size_t at, const std::string&, const nlohmann::json::exception&) {
    throw FileError(fmt::format("{}: not JSON at byte {}", where_, at));
  }

 private:
  bool put(Json value) {
    if (open_.empty()) result = std::move(value);
    else if (open_.back().is(Json::Kind::kArray)) open_.back().items.push_back(std::move(value));
    else open_.back().members.emplace_back(std::move(names_.back()), std::move(value));
    return true;
  }
  bool open(Json value) {
    if (open_.size() == kDeepest) {
      throw FileError(fmt::format("{}: nested in more than {} objects and arrays", where_, kDeepest));
    }
    open_.push_back(std::move(value));
    names_.emplace_back();
    return true;
  }
  bool close() {
    Json value = std::move(open_.back());
    open_.pop_back();
    names_.pop_back();
    return put(std::move(value));
  }

  const std::string& where_;
  std::vector<Json> open_;
  std::vector<std::string> names_;  // of the member that each open object is at
};

std::string quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void write(const Json& value, const std::string& indent, std::string& out) {
  const auto each = [&](char opening, char closing, const auto& parts, const auto& write_part) {
    out += opening;
    const char* separator = "\n";
    for (const auto& part : parts) {
      out += separator + indent + "  ";
      write_part(part);
      separator = ",\n";
    }
    if (!parts.empty()) out += "\n" + indent;
    out += closing;
  };
  switch (value.kind) {
    case Json::Kind::kNull:
      out += "null";
      break;
    case Json::Kind::kBool:
      out += value.flag ? "true" : "false";
      break;
    case Json::Kind::kNumber:
      out += value.text;
      break;
    case Json::Kind::kString:
      out += quoted(value.text);
      break;
    case Json::Kind::kArray:
      each('[', ']', value.items, [&](const Json& item) { write(item, indent + "  ", out); });
      break;
    case Json::Kind::kObject:
      each('{', '}', value.members, [&](const Json::Member& member) {
        out += quoted(member.first) + ": ";
        write(member.second, indent + "  ", out);
      });
      break;
  }
}

}  // namespace

const Json* Json::find(std::string_view name) const {
  const auto found = std::find_if(members.rbegin(), members.rend(), [&](const Member& m) { return m.first == name; });
  return found == members.rend() ? nullptr : &found->second;
}

void Json::set(std::string_view name, Json value) {
  const auto found = std::find_if(members.rbegin(), members.rend(), [&](const Member& m) { return m.first == name; });
  if (found == members.rend()) members.emplace_back(std::string(name), std::move(value));
  else found->second = std::move(value);
}

void Json::erase(std::string_view name) {
  std::erase_if(members, [&](const Member& m) { return m.first == name; });
}

std::optional<std::int64_t> Json::integer() const {
  const std::optional<double> value = number();
  if (!value || std::abs(*value) > 0x1p53 || std::trunc(*value) != *value) return std::nullopt;
  return static_cast<std::int64_t>(*value);
}

std::optional<double> Json::number() const {
  if (kind != Kind::kNumber) return std::nullopt;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && std::isfinite(value) ? std::optional(value) : std::nullopt;
}

std::string Json::dump() const {
  std::string out;
  write(*this, "", out);
  return out + "\n";
}

std::string Json::brief() const {
  constexpr std::size_t kMost = 80;
  if (kind == Kind::kArray && items.size() > kMost) return fmt::format("a list of {}", items.size());
  if (kind == Kind::kObject) return fmt::format("an object of {} members", members.size());
  std::string all = kind == Kind::kArray ? "[" : dump();
  for (const Json& item : items) {
    all += (all.size() == 1 ? "" : ", ") + item.brief();
    if (all.size() > kMost) break;
  }
  if (kind == Kind::kArray) all += "]";
  else all.pop_back();
  if (all.size() <= kMost) return all;
  std::size_t end = kMost;
  while (end > 0 && (static_cast<unsigned char>(all[end]) & 0xC0) == 0x80) --end;  // not within a character
  return all.substr(0, end) + "…";
}

Json parse_json(const std::string& where, std::string_view text) {
  // The library takes a NUL for the end of its input.
  if (text.find('\0') != std::string_view::npos)
    throw FileError(fmt::format("{}: not JSON: it holds a NUL byte", where));
  Parser parser(where);
  nlohmann::json::sax_parse(text, &parser);
  return std::move(parser.result);
}

std::string read_small_file(const std::filesystem::path& path, std::uint64_t most) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) throw FileError(fmt::format("{}: is missing", path.string()));
  if (!std::filesystem::is_regular_file(status)) {
    throw FileError(fmt::format("{}: cannot be read, expected a regular file", path.string()));
  }
  std::ifstream in(path, std::ios::binary);
  if (!in) throw FileError(fmt::format("{}: cannot be opened: {}", path.string(), std::strerror(errno)));
  std::string text;
  char piece[1 << 14];
  while (in.read(piece, sizeof piece), in.gcount() > 0) {
    text.append(piece, static_cast<std::size_t>(in.gcount()));
    if (text.size() > most) {
      throw FileError(fmt::format("{}: more than {} bytes, expected a smaller file", path.string(), most));
    }
  }
  if (in.bad()) throw FileError(fmt::format("{}: cannot be read: {}", path.string(), std::strerror(errno)));
  return text;
}

Json read_json(const std::filesystem::path& path) {
  return parse_json(path.string(), read_small_file(path, kMostBytes));
}

}  // namespace tapecache::detail
