#include "tapecache/models/config_fields.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tapecache/core/error.h"

namespace tapecache::models::detail {

std::filesystem::path folder_within(const std::filesystem::path& folder, const std::filesystem::path& part) {
  const bool ends_in_slash = !folder.has_filename() && folder.has_relative_path();
  std::filesystem::path whole = ends_in_slash ? folder.parent_path() : folder;
  if (!part.empty()) whole /= part;
  return whole;
}

void Problems::throw_any() const {
  if (!all_.empty()) throw FileError(fmt::format("{}", fmt::join(all_, "; ")));
}

ConfigFields::ConfigFields(const std::filesystem::path& file, const Json& json, Problems& problems)
    : where_(file.string()), json_(json), problems_(problems) {
  if (!json.is(Json::Kind::kObject)) {
    problems.add(fmt::format("{}: is {}, expected a JSON object", where_, json.brief()));
  }
}

const Json* ConfigFields::given(std::string_view name) const {
  const Json* const found = json_.find(name);
  return found && !found->is(Json::Kind::kNull) ? found : nullptr;
}

std::string ConfigFields::unexpected(std::string_view name, std::string_view expected) const {
  const Json* const found = json_.find(name);
  return fmt::format("{}: {} is {}, expected {}", where_, full(name), found ? found->brief() : "missing", expected);
}

void ConfigFields::refuse(std::string_view name, std::string_view expected) const {
  problems_.add(unexpected(name, expected));
}

void ConfigFields::refuse_size(std::string_view name, std::string_view expected) const {
  problems_.add_size(unexpected(name, expected));
}

std::int64_t ConfigFields::size(std::string_view name, std::int64_t otherwise, std::int64_t least) const {
  constexpr std::int64_t kMost = 1 << 28;
  const Json* const found = given(name);
  if (!found) return otherwise;
  if (const auto value = found->integer(); value && *value >= least && *value <= kMost) return *value;
  refuse_size(name, fmt::format("a whole number from {} to {}", least, kMost));
  return otherwise;
}

double ConfigFields::number(std::string_view name, double otherwise) const {
  const Json* const found = given(name);
  if (!found) return otherwise;
  if (const auto value = found->number()) return *value;
  refuse(name, "a number");
  return otherwise;
}

double ConfigFields::probability(std::string_view name, double otherwise) const {
  const double value = number(name, otherwise);
  if (value >= 0 && value < 1) return value;
  refuse(name, "0 <= p < 1");
  return otherwise;
}

double ConfigFields::positive(std::string_view name, double otherwise) const {
  const double value = number(name, otherwise);
  if (value > 0) return value;
  refuse(name, "a number above 0");
  return otherwise;
}

bool ConfigFields::flag(std::string_view name, bool otherwise) const {
  const Json* const found = given(name);
  if (!found) return otherwise;
  if (found->is(Json::Kind::kBool)) return found->flag;
  refuse(name, "true or false");
  return otherwise;
}

std::string ConfigFields::text(std::string_view name, std::string_view otherwise) const {
  const Json* const found = given(name);
  if (!found) return std::string(otherwise);
  if (found->is(Json::Kind::kString)) return found->text;
  refuse(name, "a text");
  return std::string(otherwise);
}

std::vector<std::string> ConfigFields::texts(std::string_view name) const {
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

ConfigFields ConfigFields::object(std::string_view name) const {
  static const Json kNone = Json::object();
  const Json* const found = given(name);
  if (found && !found->is(Json::Kind::kObject)) refuse(name, "an object");
  ConfigFields fields(where_, found && found->is(Json::Kind::kObject) ? *found : kNone, problems_);
  fields.within_ = full(name) + ".";
  return fields;
}

void ConfigFields::only_flag(std::string_view name, bool supported) const {
  if (flag(name, supported) != supported)
    refuse(name, supported ? "true: false is not supported" : "false: true is not supported");
}

void ConfigFields::only_text(std::string_view name, std::string_view supported) const {
  if (text(name, supported) != supported) refuse(name, fmt::format("\"{}\", which alone is supported", supported));
}

void ConfigFields::none(std::string_view name) const {
  const Json* const found = given(name);
  if (!found || (found->is(Json::Kind::kBool) && !found->flag)) return;
  const bool empty = found->items.empty() && found->members.empty();
  if (empty && (found->is(Json::Kind::kArray) || found->is(Json::Kind::kObject))) return;
  refuse(name, "none: it is not supported");
}

}  // namespace tapecache::models::detail
