#include "checks.h"
#include "folder.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "tapecache/core/error.h"
#include "tapecache/train/metrics.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {

template <class T>
T number_at(std::string_view bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

/// CRC-32C bit by bit, as its definition has it.
std::uint32_t plain_crc(std::string_view bytes) {
  std::uint32_t crc = ~0u;
  for (const char byte : bytes) {
    crc ^= static_cast<unsigned char>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ 0x82F63B78u : crc >> 1;
  }
  return ~crc;
}

std::uint32_t masked(std::string_view bytes) {
  const std::uint32_t crc = plain_crc(bytes);
  return (crc >> 15 | crc << 17) + 0xA282EAD8u;
}

/// The events of a file, each without its time, which comes first.
std::vector<std::string> events_of(const std::string& file) {
  std::vector<std::string> events;
  for (std::size_t at = 0; at < file.size();) {
    const auto size = number_at<std::uint64_t>(file, at);
    BOOST_REQUIRE_LE(at + 16 + size, file.size());
    const std::string_view event = std::string_view(file).substr(at + 12, size);
    BOOST_CHECK_EQUAL(number_at<std::uint32_t>(file, at + 8), masked(file.substr(at, 8)));
    BOOST_CHECK_EQUAL(number_at<std::uint32_t>(file, at + 12 + size), masked(event));
    BOOST_CHECK_EQUAL(event[0], '\x09');
    BOOST_CHECK_GT(number_at<double>(event, 1), 1.7e9);
    events.emplace_back(event.substr(9));
    at += 16 + size;
  }
  return events;
}

}  // namespace

BOOST_FIXTURE_TEST_SUITE(event_files, Folder)

BOOST_AUTO_TEST_CASE(check_of_the_checksum) { BOOST_CHECK_EQUAL(plain_crc("123456789"), 0xE3069283u); }

BOOST_AUTO_TEST_CASE(scalars) {
  train::EventFile file(path() / "run");
  BOOST_CHECK(file.path().filename().string().starts_with("events.out.tfevents."));
  file.scalar("loss", 300, 0.5);
  file.scalar("loss", 0, NAN);
  file.flush();
  const auto events = events_of(contents(file.path()));
  BOOST_REQUIRE_EQUAL(events.size(), 3u);
  BOOST_CHECK(events[0] ==
              "\x1a\x0d"
              "brain.Event:2");
  BOOST_CHECK(events[1] == std::string("\x10\xac\x02\x2a\x0d\x0a\x0b\x0a\x04loss\x15\0\0\0\x3f", 18));
  BOOST_CHECK(std::isnan(number_at<float>(events[2], events[2].size() - 4)));
}

BOOST_AUTO_TEST_CASE(a_run_that_goes_on) {
  const train::EventFile first(path()), second(path(), 7);
  BOOST_CHECK_LT(first.path(), second.path());
  const auto events = events_of(contents(second.path()));
  BOOST_REQUIRE_EQUAL(events.size(), 2u);
  BOOST_CHECK(events[1] == std::string("\x10\x07\x3a\x02\x08\x01", 6));
}

BOOST_AUTO_TEST_CASE(where_nothing_can_be_written) {
  put(*this / "file", "");
  BOOST_CHECK_EXCEPTION(train::EventFile(*this / "file"), FileError, says({"file"}));
  BOOST_CHECK_THROW(train::EventFile("/proc/tapecache"), FileError);
}

BOOST_AUTO_TEST_SUITE_END()
