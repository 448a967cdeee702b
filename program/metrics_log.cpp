#include "metrics_log.h"

#include <cerrno>
#include <cstring>
#include <sstream>
#include <string>
#include <system_error>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tapecache/core/error.h"
#include "tapecache/core/files.h"

namespace tapecache::program {

namespace {

using Json = nlohmann::ordered_json;

/// The lines of steps up to this one. The last may have been cut when its run was killed.
std::string lines_until(const std::filesystem::path& path, std::int64_t step) {
  std::ifstream file(path, std::ios::binary);
  std::string kept;
  for (std::string line; std::getline(file, line);) {
    const Json entry = Json::parse(line, nullptr, false);
    if (!entry.is_object() || !entry.contains("step") || !entry["step"].is_number_integer()) continue;
    if (entry["step"].get<std::int64_t>() <= step) kept += line + "\n";
  }
  return kept;
}

/// From which step on earlier event files of the folder count no more: all, where a run begins anew; none where there
/// is no such file.
std::optional<std::int64_t> first_new_step(const std::filesystem::path& folder,
                                           std::optional<std::int64_t> resumed_step) {
  if (resumed_step) return *resumed_step + 1;
  std::error_code error;
  for (std::filesystem::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    if (at->path().filename().string().starts_with("events.out.tfevents.")) return 0;
  }
  return std::nullopt;
}

}  // namespace

MetricsLog::MetricsLog(const std::filesystem::path& folder, std::optional<std::int64_t> resumed_step)
    : path_(folder / "metrics.jsonl"), events_(folder, first_new_step(folder, resumed_step)) {
  write_file_atomically(path_, resumed_step ? lines_until(path_, *resumed_step) : "");
  lines_.open(path_, std::ios::binary | std::ios::app);
}

void MetricsLog::add(std::string_view kind, std::int64_t step, const Figures& figures) {
  Json line{{"step", step}, {"kind", kind}};
  for (const auto& [name, value] : figures) {
    line[name] = value;
    events_.scalar(fmt::format("{}/{}", kind, name), step, value);
  }
  lines_ << line.dump() << '\n' << std::flush;
  if (!lines_) throw FileError(fmt::format("{}: cannot be written: {}", path_.string(), std::strerror(errno)));
  events_.flush();
}

}  // namespace tapecache::program
