#include "tapecache/train/metrics.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstring>

#include <fmt/format.h>

#include "tapecache/core/error.h"

namespace tapecache::train {

namespace {

static_assert(std::endian::native == std::endian::little);

/// CRC-32C (Castagnoli), by table.
std::uint32_t crc32c(std::string_view bytes) {
  static constexpr auto kTable = [] {
    std::array<std::uint32_t, 256> table{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t crc = i;
      for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ 0x82F63B78u : crc >> 1;
      table[i] = crc;
    }
    return table;
  }();
  std::uint32_t crc = ~0u;
  for (const char byte : bytes) crc = crc >> 8 ^ kTable[(crc ^ static_cast<unsigned char>(byte)) & 0xff];
  return ~crc;
}

template <class T>
std::string bytes_of(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

/// A checksum of bytes that hold checksums is masked, as in TFRecord files.
std::string masked_crc(std::string_view bytes) {
  const std::uint32_t crc = crc32c(bytes);
  return bytes_of((crc >> 15 | crc << 17) + 0xA282EAD8u);
}

// The fields of a Protocol Buffers message.
std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes.push_back(static_cast<char>(value | 0x80));
  bytes.push_back(static_cast<char>(value));
  return bytes;
}
std::string integer_field(unsigned field, std::int64_t value) {
  return varint(field << 3) + varint(static_cast<std::uint64_t>(value));
}
std::string double_field(unsigned field, double value) { return varint(field << 3 | 1) + bytes_of(value); }
std::string bytes_field(unsigned field, std::string_view value) {
  return varint(field << 3 | 2) + varint(value.size()) + std::string(value);
}
std::string float_field(unsigned field, float value) { return varint(field << 3 | 5) + bytes_of(value); }

// Of tensorboard/compat/proto/event.proto and summary.proto.
constexpr unsigned kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5, kSessionLog = 7;
constexpr unsigned kSummaryValue = 1, kTag = 1, kSimpleValue = 2;
constexpr unsigned kStatus = 1;
constexpr std::int64_t kStart = 1;

std::string wall_time() {
  return double_field(kWallTime,
                      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count());
}

}  // namespace

EventFile::EventFile(const std::filesystem::path& folder, std::optional<std::int64_t> resumed_step) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw FileError(fmt::format("{}: cannot create the folder: {}", folder.string(), error.message()));
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0 || host[0] == '\0') host = {"localhost"};
  // TensorBoard reads the files of a folder in the order of their names.
  static std::atomic<int> count = 0;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  path_ = folder / fmt::format("events.out.tfevents.{:010}.{}.{}.{}",
                               std::chrono::duration_cast<std::chrono::seconds>(now).count(), host.data(), ::getpid(),
                               count++);
  file_.open(path_, std::ios::binary);
  add(wall_time() + bytes_field(kFileVersion, "brain.Event:2"));
  if (resumed_step) {
    add(wall_time() + integer_field(kStep, *resumed_step) + bytes_field(kSessionLog, integer_field(kStatus, kStart)));
  }
  flush();
}

void EventFile::scalar(std::string_view tag, std::int64_t step, double value) {
  const std::string point = bytes_field(kTag, tag) + float_field(kSimpleValue, static_cast<float>(value));
  add(wall_time() + integer_field(kStep, step) + bytes_field(kSummary, bytes_field(kSummaryValue, point)));
}

void EventFile::flush() {
  file_.flush();
  if (!file_) throw FileError(fmt::format("{}: cannot be written: {}", path_.string(), std::strerror(errno)));
}

/// A record of a TFRecord file.
void EventFile::add(std::string_view event) {
  const std::string length = bytes_of(static_cast<std::uint64_t>(event.size()));
  file_ << length << masked_crc(length) << event << masked_crc(event);
}

}  // namespace tapecache::train
