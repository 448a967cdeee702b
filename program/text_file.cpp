#include "text_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include <fmt/format.h>

namespace tapecache::program {

namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
constexpr std::size_t kPiece = std::size_t{1} << 20;

/// Reads up to `bytes`, fewer at the end. A place below 0: where the last call ended.
std::size_t read_some(int descriptor, char* to, std::size_t bytes, std::int64_t place, const std::string& name) {
  std::size_t done = 0;
  while (done < bytes) {
    const ssize_t count = place < 0 ? ::read(descriptor, to + done, bytes - done)
                                    : ::pread(descriptor, to + done, bytes - done, place + static_cast<off_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw FileError(fmt::format("{}: cannot be read: {}", name, std::strerror(errno)));
    if (count == 0) break;
    done += static_cast<std::size_t>(count);
  }
  return done;
}

/// Bytes of the well-formed sequence (Unicode's table 3-7) at the beginning, which is not empty; 0 for none.
std::size_t sequence_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xC2 && first <= 0xDF   ? 2
                             : first >> 4 == 0xE              ? 3
                             : first >= 0xF0 && first <= 0xF4 ? 4
                                                              : 0;
  if (length == 0 || text.size() < length) return 0;
  const unsigned low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const unsigned high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  if (byte(1) < low || byte(1) > high) return 0;
  for (std::size_t i = 2; i < length; ++i) {
    if (byte(i) >> 6 != 2) return 0;
  }
  return length;
}

/// How many bytes at the beginning are ASCII without NUL, or fewer: eight are looked at at once.
std::size_t plain_bytes(std::string_view text) {
  constexpr std::uint64_t kHigh = 0x8080808080808080, kOnes = 0x0101010101010101;
  std::size_t at = 0;
  for (; at + 8 <= text.size(); at += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, text.data() + at, 8);
    // Of ASCII, only a NUL borrows.
    if (((word | (word - kOnes)) & kHigh) != 0) break;
  }
  return at;
}

}  // namespace

TextFile::TextFile(const std::filesystem::path& path) : name_(path.string()) {
  const auto fail = [&](std::string_view what) { throw FileError(fmt::format("{}: {}", name_, what)); };
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) fail("no such file");
  if (std::filesystem::is_directory(status)) fail("is a folder, expected a file");
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor_ < 0) fail(fmt::format("cannot be opened: {}", std::strerror(errno)));
  try {
    if (std::filesystem::is_regular_file(status)) {
      opened_ = version();
      size_ = opened_.bytes;
    } else {
      for (std::size_t count = kPiece; count == kPiece;) {
        contents_.resize(size_ + kPiece);
        count = read_some(descriptor_, contents_.data() + size_, kPiece, -1, name_);
        size_ += count;
      }
      contents_.resize(size_);
      ::close(std::exchange(descriptor_, -1));
    }
    leave_out_byte_order_mark();
  } catch (...) {
    if (descriptor_ >= 0) ::close(descriptor_);
    throw;
  }
}

TextFile::TextFile(std::string name, std::string contents)
    : name_(std::move(name)), contents_(std::move(contents)), size_(contents_.size()) {
  leave_out_byte_order_mark();
}

TextFile::~TextFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void TextFile::leave_out_byte_order_mark() {
  if (size_ < kByteOrderMark.size() || read(0, kByteOrderMark.size()) != kByteOrderMark) return;
  begin_ = kByteOrderMark.size();
  size_ -= begin_;
}

TextFile::Version TextFile::version() const {
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0) {
    throw FileError(fmt::format("{}: cannot be read: {}", name_, std::strerror(errno)));
  }
  return {static_cast<std::uintmax_t>(status.st_size), status.st_mtim.tv_sec, status.st_mtim.tv_nsec};
}

void TextFile::fail_changed() const {
  throw FileError(fmt::format("{}: has changed since it was opened, expected a file that stays as it is", name_));
}

void TextFile::require_unchanged() const {
  if (descriptor_ >= 0 && version() != opened_) fail_changed();
}

std::string TextFile::read(std::size_t begin, std::size_t end) const {
  if (descriptor_ < 0) return contents_.substr(begin_ + begin, end - begin);
  std::string text(end - begin, '\0');
  if (read_some(descriptor_, text.data(), text.size(), static_cast<std::int64_t>(begin_ + begin), name_) <
      text.size()) {
    fail_changed();
  }
  return text;
}

FileError TextFile::error(std::size_t place, const std::string& what) const {
  std::ptrdiff_t lines = 1, column = 1;
  for (std::size_t begin = 0; begin < place; begin += kPiece) {
    const std::string piece = read(begin, std::min(place, begin + kPiece));
    const std::size_t line_begin = piece.rfind('\n') + 1;  // 0 where there is none
    lines += std::ranges::count(piece, '\n');
    if (line_begin > 0) column = 1;
    column += std::ranges::count_if(std::string_view(piece).substr(line_begin),
                                    [](char c) { return static_cast<unsigned char>(c) >> 6 != 2; });
  }
  return FileError(fmt::format("{}: line {}, column {}: {}", name_, lines, column, what));
}

TextReader::TextReader(const TextFile& file) : file_(file) { extend(); }

void TextReader::skip(std::size_t bytes) {
  at_ += bytes;
  if (at_ == lines_) extend();
}

void TextReader::extend() {
  const std::size_t held = text().size();
  buffer_.erase(0, at_);
  place_ += at_;
  at_ = 0;
  lines_ = held;
  for (std::size_t wanted = std::max(kPiece, held); lines_ == held && has_more(); wanted *= 2) {
    const std::size_t old = buffer_.size(), begin = place_ + old, end = std::min(file_.size(), begin + wanted);
    buffer_ += file_.read(begin, end);
    const std::size_t last = end == file_.size() ? buffer_.size() - 1 : buffer_.rfind('\n');
    if (last != std::string::npos && last >= held) lines_ = last + 1;
  }
  check(held, lines_);
}

void TextReader::check(std::size_t begin, std::size_t end) const {
  const std::string_view text(buffer_);
  for (std::size_t at = begin; at < end;) {
    at += plain_bytes(text.substr(at, end - at));
    if (at == end) return;
    if (text[at] == '\0') {
      throw file_.error(place_ + at, "found a NUL, expected text in UTF-8 (is this UTF-16, or no text?)");
    }
    const std::size_t length = sequence_length(text.substr(at, end - at));
    if (length == 0) {
      throw file_.error(
          place_ + at,
          fmt::format("found the byte 0x{:02x}, which is no UTF-8 here; convert the file, as by iconv -t UTF-8",
                      static_cast<unsigned char>(text[at])));
    }
    at += length;
  }
}

}  // namespace tapecache::program
