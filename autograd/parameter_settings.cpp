#include "tapecache/autograd/parameter_settings.h"

#include <cstdint>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace tapecache {

namespace {

constexpr const char* kKey = "tapecache.settings";

using Settings = std::map<std::string, std::map<std::string, std::string>>;

/// Takes the events of nlohmann's parser: an object of objects of texts, and nothing else. Its own values are not made,
/// since they may allocate where they are destroyed, and then end the process for lack of memory.
class Parser {
 public:
  Settings settings;

  bool start_object(std::size_t) { return ++depth_ <= 2; }
  bool end_object() {
    --depth_;
    return true;
  }
  bool key(std::string& text) {
    if (depth_ == 1) of_ = &settings[text];
    else setting_ = text;
    return true;
  }
  bool string(std::string& text) {
    if (depth_ == 2) (*of_)[setting_] = text;
    return depth_ == 2;
  }
  bool start_array(std::size_t) { return false; }
  bool end_array() { return false; }
  bool null() { return false; }
  bool boolean(bool) { return false; }
  bool number_integer(std::int64_t) { return false; }
  bool number_unsigned(std::uint64_t) { return false; }
  bool number_float(double, const std::string&) { return false; }
  bool binary(std::vector<std::uint8_t>&) { return false; }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception&) { return false; }

 private:
  int depth_ = 0;
  std::map<std::string, std::string>* of_ = nullptr;
  std::string setting_;
};

Settings parsed(const std::filesystem::path& path, const std::string& text) {
  Parser parser;
  if (nlohmann::json::sax_parse(text, &parser)) return std::move(parser.settings);
  throw FileError(fmt::format("{}: its metadata '{}' is no JSON object of objects of texts", path.string(), kKey));
}

std::string quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

void write_settings(std::map<std::string, std::string>& metadata, std::span<const Parameter> parameters,
                    const NameInFile& name) {
  if (!name) throw ValueError("write_settings: the names are an empty function");
  std::map<std::string, std::string> by_name;
  for (const Parameter& p : parameters) {
    const std::string there = name(p);
    if (there.empty() || p.settings().empty()) continue;
    std::string& own = by_name[there];
    for (const auto& [setting, value] : p.settings()) {
      own += fmt::format("{}{}:{}", own.empty() ? "" : ",", quoted(setting), quoted(value));
    }
  }
  std::string all;
  for (const auto& [there, own] : by_name)
    all += fmt::format("{}{}:{{{}}}", all.empty() ? "" : ",", quoted(there), own);
  if (!all.empty()) metadata[kKey] = fmt::format("{{{}}}", all);
}

std::vector<std::string> other_settings(const std::filesystem::path& path, const SafetensorsReader& file,
                                        std::span<const Parameter> parameters, const NameInFile& name) {
  if (!name) throw ValueError("other_settings: the names are an empty function");
  std::vector<std::string> differences;
  const std::optional<std::string> text = file.metadata(kKey);
  if (!text) return differences;
  const Settings saved = parsed(path, *text);
  for (const Parameter& p : parameters) {
    const auto settings = saved.find(name(p));
    if (settings == saved.end()) continue;
    for (const auto& [setting, value] : settings->second) {
      const auto own = p.settings().find(setting);
      if (own == p.settings().end() || own->second == value) continue;
      differences.push_back(
          fmt::format("'{}' was saved with {} {}, expected {}", settings->first, setting, value, own->second));
    }
  }
  return differences;
}

}  // namespace tapecache
