#include "tapecache/core/json_fields.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace tapecache::detail {

std::string unexpected(std::string_view file, std::string_view name, const Json* found, std::string_view expected) {
  return fmt::format("{}: {}{}is {}, expected {}", file, name, name.empty() ? "" : " ",
                     found ? found->brief() : "missing", expected);
}

void Problems::add(std::string sentence) {
  if (tell_ == Tell::kAtOnce) throw FileError(sentence);
  all_.push_back(std::move(sentence));
}

void Problems::throw_any() const {
  if (!all_.empty()) throw FileError(fmt::format("{}", fmt::join(all_, "; ")));
}

JsonFields::JsonFields(const std::filesystem::path& file, const Json& json, Problems& problems)
    : where_(file.string()), json_(json), problems_(problems) {
  if (!json.is(Json::Kind::kObject)) problems.add(detail::unexpected(where_, "", &json, "a JSON object"));
}

const Json* JsonFields::given(std::string_view name) const {
  const Json* const found = json_.find(name);
  return found && !found->is(Json::Kind::kNull) ? found : nullptr;
}

void JsonFields::refuse(std::string_view name, std::string_view expected) const {
  problems_.add(unexpected(name, expected));
}

void JsonFields::refuse_size(std::string_view name, std::string_view expected) const {
  problems_.add_size(unexpected(name, expected));
}

FileError JsonFields::refused(std::string_view name, std::string_view expected) const {
  return FileError(unexpected(name, expected));
}

std::int64_t JsonFields::size(std::string_view name, std::int64_t otherwise, std::int64_t least,
                              std::int64_t most) const {
  const Json* const found = given(name);
  if (!found) return otherwise;
  if (const auto value = found->integer(); value && *value >= least && *value <= most) return *value;
  refuse_size(name, fmt::format("a whole number from {} to {}", least, most));
  return otherwise;
}

double JsonFields::number(std::string_view name, double otherwise) const {
  const Json* const found = given(name);
  if (!found) return otherwise;
  if (const auto value = found->number()) return *value;
  refuse(name, "a number");
  return otherwise;
}

double JsonFields::probability(std::string_view name, double otherwise) const {
  const double value = number(name, otherwise);
  if (value >= 0 && value < 1) return value;
  refuse(name, "0 <= p < 1");
  return otherwise;
}

double JsonFields::positive(std::string_view name, double otherwise) const {
  const double value = number(name, otherwise);
  if (value > 0) return value;
  refuse(name, "a number above 0");
  return otherwise;
}

bool JsonFields::flag(std::string_view name, bool otherwise) const {
  const Json* const found = given(name);
  if (!found) return otherwise;
  if (found->is(Json::Kind::kBool)) return found->flag;
  refuse(name, "true or false");
  return otherwise;
}

std::string JsonFields::text(std::string_view name, std::string_view otherwise) const {
  const Json* const found = given(name);
  if (!found) return std::string(otherwise);
  if (found->is(Json::Kind::kString)) return found->text;
  refuse(name, "a text");
  return std::string(otherwise);
}

std::vector<std::string> JsonFields::texts(std::string_view name) const {
  const Json* const found = given(name);
  std::vector<std::string> all;
  if (!found) return all;
  bool fits = found->is(Json::Kind::kArray);
  for (const Json& item : found->items) {
    fits = fits && item.is(Json::Kind::kString);
    all.push_back(item.text);
  }
  if (fits) return all;
  refuse(name, "a list of texts");
  return {};
}

JsonFields JsonFields::object(std::string_view name) const {
  static const Json kNone = Json::object();
  const Json* const found = given(name);
  if (found && !found->is(Json::Kind::kObject)) refuse(name, "an object");
  return object(name, found && found->is(Json::Kind::kObject) ? *found : kNone);
}

JsonFields JsonFields::object(std::string_view name, const Json& json) const {
  JsonFields fields(where_, json, problems_);
  fields.within_ = full(name) + ".";
  return fields;
}

void JsonFields::only_flag(std::string_view name, bool supported) const {
  if (flag(name, supported) != supported)
    refuse(name, supported ? "true: false is not supported" : "false: true is not supported");
}

void JsonFields::only_text(std::string_view name, std::string_view supported) const {
  if (text(name, supported) != supported) refuse(name, fmt::format("\"{}\", which alone is supported", supported));
}

void JsonFields::none(std::string_view name) const {
  const Json* const found = given(name);
  if (!found || (found->is(Json::Kind::kBool) && !found->flag)) return;
  const bool empty = found->items.empty() && found->members.empty();
  if (empty && (found->is(Json::Kind::kArray) || found->is(Json::Kind::kObject))) return;
  refuse(name, "none: it is not supported");
}

void JsonFields::only(std::initializer_list<std::string_view> known) const {
  for (const auto& [name, value] : json_.members) {
    if (std::ranges::find(known, name) == known.end()) none(name);
  }
}

}  // namespace tapecache::detail
