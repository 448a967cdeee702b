#include "tapecache/core/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <system_error>

#include <fmt/format.h>

#include "tapecache/core/error.h"

namespace tapecache {

namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const char* what, int error) {
  throw FileError(fmt::format("{}: cannot {}: {}", path.string(), what, std::strerror(error)));
}

/// Its own for each call: threads and processes may write one target at once.
std::string temporary_name(const std::filesystem::path& target) {
  static std::atomic<std::uint64_t> calls{0};
  return target.string() + fmt::format(".tmp{}-{}", ::getpid(), calls++);
}

/// The temporary file; removed unless it was renamed into place.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::filesystem::path& target) : target_(target), path_(temporary_name(target)) {
    descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (descriptor_ < 0) fail(target_, "create a file there", errno);
  }
  ~TemporaryFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
    if (!path_.empty()) ::unlink(path_.c_str());
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  void write(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail(target_, "write", errno);
      bytes.remove_prefix(static_cast<std::size_t>(written));
    }
  }

  void rename_into_place() {
    if (::fsync(descriptor_) != 0) fail(target_, "flush", errno);
    const int closed = ::close(descriptor_);
    descriptor_ = -1;
    if (closed != 0) fail(target_, "close", errno);
    if (::rename(path_.c_str(), target_.c_str()) != 0) fail(target_, "rename the finished file", errno);
    path_.clear();
  }

 private:
  std::filesystem::path target_;
  std::string path_;
  int descriptor_ = -1;
};

}  // namespace

void write_file_atomically(const std::filesystem::path& path, std::span<const std::string_view> parts) {
  if (path.has_parent_path()) {
    std::error_code error;
    std::filesystem::create_directories(path.parent_path(), error);
    if (error) fail(path, "create its folder", error.value());
  }
  TemporaryFile file(path);
  for (std::string_view part : parts) file.write(part);
  file.rename_into_place();
}

void write_file_atomically(const std::filesystem::path& path, std::string_view contents) {
  write_file_atomically(path, std::span(&contents, 1));
}

}  // namespace tapecache
