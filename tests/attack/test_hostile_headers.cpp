#include <cstddef>
#include <cstdint>
#include <string>

#include <boost/test/unit_test.hpp>

#include "failing_allocation.h"
#include "folder.h"
#include "tapecache/core/error.h"
#include "tapecache/core/files.h"

using namespace tapecache;
using namespace tapecache::testing;

BOOST_FIXTURE_TEST_SUITE(hostile_headers, Folder)

BOOST_AUTO_TEST_CASE(they_take_little_memory) {
  const auto most_for = [&](const std::string& header, bool refused) {
    const std::uint64_t size = header.size();
    put(*this / "h", std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + header);
    bool threw = false;
    const std::int64_t bytes = peak_of_objects([&] {
      try {
        const SafetensorsReader reader(*this / "h");
      } catch (const FileError&) {
        threw = true;
      }
    });
    BOOST_TEST(threw == refused);
    return static_cast<double>(bytes) / static_cast<double>(header.size());
  };
  constexpr std::size_t kSize = 20 << 20;
  const auto repeated = [](std::string text, const std::string& piece, const std::string& end) {
    while (text.size() < kSize) text += piece;
    return text + end;
  };
  const auto numbered = [](const std::string& begin, const std::string& piece, const std::string& end) {
    std::string text = begin;
    for (int i = 0; text.size() < kSize; ++i) text += (i ? ",\"" : "\"") + std::to_string(i) + piece;
    return text + end;
  };
  BOOST_TEST(most_for(std::string(kSize, '['), true) <= 2);
  BOOST_TEST(most_for(repeated("", "{\"a\":", "1"), true) <= 2);
  BOOST_TEST(most_for(repeated("{\"a\":{\"b\":[0", ",[]", "]}}"), true) <= 2);
  BOOST_TEST(most_for(repeated("{\"a\":{\"shape\":[0", ",0", "]}}"), true) <= 2);
  BOOST_TEST(most_for(repeated("{\"a\":{\"b\":[0", ",0", "]}}"), true) <= 2);
  BOOST_TEST(most_for("{\"" + std::string(kSize, 'a') + "\":1}", true) <= 2);
  BOOST_TEST(most_for("{" + std::string(kSize, ' ') + "}", true) <= 2);
  BOOST_TEST(most_for("{}" + std::string(kSize, ' '), false) <= 2);
  BOOST_TEST(most_for(numbered("{\"__metadata__\":{", "\":\"\"", "}}"), true) <= 2);
  BOOST_TEST(most_for(numbered("{\"__metadata__\":{", "\":\"" + std::string(1 << 20, 'a') + "\"", "}}"), false) <= 2);
  BOOST_TEST(most_for(numbered("{", R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})", "}"), false) <= 2);
  BOOST_TEST(most_for(numbered("{", R"(":{"dtype":"","shape":[0,0,0,0,0,0,0,0],"data_offsets":[0,0]})", "}"), false) <=
             2);
}

BOOST_AUTO_TEST_SUITE_END()
