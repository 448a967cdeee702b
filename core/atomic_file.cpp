#include "tapecache/core/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include <fmt/format.h>

#include "tapecache/core/descriptor.h"
#include "tapecache/core/error.h"

namespace tapecache {

using detail::Descriptor;

namespace {

constexpr std::string_view kMark = ".tmp-";
constexpr std::size_t kDigits = 16;

[[noreturn]] void fail(const std::filesystem::path& path, const char* what, int error) {
  throw FileError(fmt::format("{}: cannot {}: {}", path.string(), what, std::strerror(error)));
}

/// What a chain of symbolic links, whose end need not exist, stands for.
std::filesystem::path followed(const std::filesystem::path& path) {
  constexpr int kLinks = 40;  // as many as the system follows
  std::filesystem::path at = path;
  std::error_code error;
  for (int links = 0; std::filesystem::is_symlink(std::filesystem::symlink_status(at, error)); ++links) {
    if (links == kLinks) fail(path, "follow its symbolic links", ELOOP);
    const std::filesystem::path target = std::filesystem::read_symlink(at, error);
    if (error) fail(path, "read the symbolic link", error.value());
    at = at.parent_path() / target;  // which is `target` where that is absolute
  }
  return at;
}

/// Where a file system cannot flush a folder there is nothing to do.
int flush_folder(int folder) { return ::fsync(folder) == 0 || errno == EINVAL || errno == EBADF ? 0 : errno; }

/// Creates a folder and those above it that are missing, and flushes each one that names a new one.
void make_folders(const std::filesystem::path& path, const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> missing;
  std::error_code error;
  for (auto at = folder; !at.empty() && !std::filesystem::exists(at, error) && !error; at = at.parent_path()) {
    missing.push_back(at);
  }
  for (; !missing.empty(); missing.pop_back()) {
    std::filesystem::create_directory(missing.back(), error);
    if (error) fail(path, "create its folder", error.value());
    const std::filesystem::path above = missing.back().parent_path();
    const Descriptor naming(::open(above.empty() ? "." : above.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (const int failed = naming ? flush_folder(naming.get()) : 0) fail(path, "flush its folder", failed);
  }
}

/// What the names of all temporary files for a name begin with; the longest names are cut, so that theirs are none too
/// long.
std::string temporary_stem(const std::string& name) {
  return name.substr(0, NAME_MAX - kMark.size() - kDigits).append(kMark);
}

bool is_temporary(std::string_view name, std::string_view stem) {
  return name.size() == stem.size() + kDigits && name.starts_with(stem) &&
         name.find_first_not_of("0123456789abcdef", stem.size()) == std::string_view::npos;
}

/// Removes a temporary file whose writer is gone. What is opened here has no other name: a writer takes a new one each
/// time.
void remove_if_left(int folder, const char* name) {
  constexpr int kFlags = O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
  Descriptor file(::openat(folder, name, O_WRONLY | kFlags));  // the lock of some network file systems asks for it
  if (!file) file.reset(::openat(folder, name, O_RDONLY | kFlags));
  struct stat found {};
  if (!file || ::fstat(file.get(), &found) != 0 || !S_ISREG(found.st_mode)) return;
  if (::flock(file.get(), LOCK_EX | LOCK_NB) == 0) ::unlinkat(folder, name, 0);
}

void remove_left(int folder, std::string_view stem) {
  const int listed = ::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (listed < 0) return;  // a folder that may not be listed
  DIR* const entries = ::fdopendir(listed);
  if (!entries) {
    ::close(listed);
    return;
  }
  while (const dirent* entry = ::readdir(entries)) {
    if (is_temporary(entry->d_name, stem)) remove_if_left(folder, entry->d_name);
  }
  ::closedir(entries);
}

}  // namespace

struct [[gnu::visibility("hidden")]] AtomicFile::Parts {
  std::filesystem::path path;  // as it was given
  Descriptor folder, file;
  std::string name;       // in the folder
  std::string temporary;  // in the folder; empty where there is none
  std::optional<struct stat> before;

  explicit Parts(const std::filesystem::path& given) : path(given) {}
  ~Parts() {
    if (!temporary.empty()) ::unlinkat(folder.get(), temporary.c_str(), 0);
  }
  Parts(const Parts&) = delete;
  Parts& operator=(const Parts&) = delete;

  void open_folder(const std::filesystem::path& place) {
    const char* const where = place.empty() ? "." : place.c_str();
    folder.reset(::open(where, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!folder && errno == EACCES) folder.reset(::open(where, O_PATH | O_DIRECTORY | O_CLOEXEC));  // may not be listed
    if (!folder) fail(path, "open its folder", errno);
  }

  /// What has the name now.
  void look() {
    struct stat found {};
    if (::fstatat(folder.get(), name.c_str(), &found, AT_SYMLINK_NOFOLLOW) != 0) {
      if (errno != ENOENT) fail(path, "look for it", errno);
      return;
    }
    if (!S_ISREG(found.st_mode)) {
      throw FileError(fmt::format("{}: cannot be written: {} is in its place, expected a regular file or nothing",
                                  path.string(),
                                  S_ISDIR(found.st_mode) ? "a folder" : "a FIFO, device, socket or link"));
    }
    before = found;
  }

  void make_temporary() {
    const std::string stem = temporary_stem(name);
    remove_left(folder.get(), stem);
    while (temporary.empty()) {
      std::uint64_t number = 0;
      if (::getentropy(&number, sizeof(number)) != 0) fail(path, "draw a random name", errno);
      std::string drawn = fmt::format("{}{:0{}x}", stem, number, kDigits);
      // By the umask, but for one that takes the place of a file that others may not read.
      file.reset(::openat(folder.get(), drawn.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, before ? 0600 : 0666));
      if (!file && errno == EEXIST) continue;
      if (!file) fail(path, "create a file there", errno);
      temporary = std::move(drawn);
      // Until it has the lock another writer may take it for one that was left behind; then this one draws another
      // name. Where the file system has no locks nobody removes anything.
      const bool taken = ::flock(file.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
      if (taken) ::unlinkat(folder.get(), temporary.c_str(), 0);
      struct stat found {};
      if (taken || (::fstat(file.get(), &found) == 0 && found.st_nlink == 0)) temporary.clear();
    }
  }

  /// Mode, owner and group of the file before. Where the group cannot be kept, the new one gets no more than all others
  /// have.
  void take_over_access() {
    struct stat own {};
    if (!before || ::fstat(file.get(), &own) != 0) return;
    mode_t mode = before->st_mode & 07777;
    const uid_t owner = own.st_uid == before->st_uid ? static_cast<uid_t>(-1) : before->st_uid;
    const gid_t group = own.st_gid == before->st_gid ? static_cast<gid_t>(-1) : before->st_gid;
    if ((owner != static_cast<uid_t>(-1) || group != static_cast<gid_t>(-1)) &&
        ::fchown(file.get(), owner, group) != 0 && ::fchown(file.get(), static_cast<uid_t>(-1), group) != 0) {
      mode &= ~static_cast<mode_t>(06070) | (mode & 7) << 3;
    }
    if (::fchmod(file.get(), mode) != 0) fail(path, "keep its mode", errno);
  }
};

AtomicFile::AtomicFile(const std::filesystem::path& path) : parts_(std::make_unique<Parts>(path)) {
  make_folders(path, path.parent_path());
  const std::filesystem::path target = followed(path);
  parts_->name = target.filename().string();
  if (parts_->name.empty()) fail(path, "be written", path.empty() ? ENOENT : EISDIR);
  parts_->open_folder(target.parent_path());
  parts_->look();
  parts_->make_temporary();
}

AtomicFile::~AtomicFile() = default;

void AtomicFile::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(parts_->file.get(), bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail(parts_->path, "write", errno);
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
}

void AtomicFile::finish() {
  Parts& p = *parts_;
  p.look();
  p.take_over_access();
  if (::fsync(p.file.get()) != 0) fail(p.path, "flush", errno);
  // The lock is kept until the temporary name is gone.
  if (::renameat(p.folder.get(), p.temporary.c_str(), p.folder.get(), p.name.c_str()) != 0) {
    fail(p.path, "rename the finished file", errno);
  }
  p.temporary.clear();
  p.file.reset();
  if (const int failed = flush_folder(p.folder.get())) fail(p.path, "flush its folder", failed);
}

void write_file_atomically(const std::filesystem::path& path, std::span<const std::string_view> parts) {
  AtomicFile file(path);
  for (const std::string_view part : parts) file.write(part);
  file.finish();
}

void write_file_atomically(const std::filesystem::path& path, std::string_view contents) {
  write_file_atomically(path, std::span(&contents, 1));
}

}  // namespace tapecache
