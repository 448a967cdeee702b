#include "tapecache/autograd/parameter_settings.h"

#include <string_view>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace tapecache {

namespace {

constexpr const char* kKey = "tapecache.settings";

using Settings = std::map<std::string, std::map<std::string, std::string>>;

Settings parsed(const std::string& text) {
  constexpr int kDepth = 2;
  try {
    // Deeper values are refused while they are read, so that a hostile file costs no memory.
    const auto json = nlohmann::json::parse(text, [](int depth, nlohmann::json::parse_event_t event, nlohmann::json&) {
      using Event = nlohmann::json::parse_event_t;
      if (event == Event::array_start || (event == Event::object_start && depth >= kDepth)) throw ValueError("nested");
      return true;
    });
    return json.get<Settings>();
  } catch (const nlohmann::json::exception&) {
  } catch (const ValueError&) {
  }
  throw ValueError(fmt::format("its metadata '{}' is no JSON object of objects of texts", kKey));
}

}  // namespace

void write_settings(std::map<std::string, std::string>& metadata, std::span<const Parameter> parameters,
                    const NameInFile& name) {
  nlohmann::json all;
  for (const Parameter& p : parameters) {
    const std::string there = name(p);
    if (!there.empty() && !p.settings().empty()) all[there] = p.settings();
  }
  if (!all.empty()) metadata[kKey] = all.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::vector<std::string> other_settings(const std::map<std::string, std::string>& metadata,
                                        std::span<const Parameter> parameters, const NameInFile& name) {
  std::vector<std::string> differences;
  const auto text = metadata.find(kKey);
  if (text == metadata.end()) return differences;
  const Settings saved = parsed(text->second);
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
