#include <sys/stat.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "safetensors_files.h"
#include "tapecache/core/device.h"

// Files that are refused, with a message that names them.

using namespace tapecache;
using namespace tapecache::testing;

namespace fs = std::filesystem;

BOOST_FIXTURE_TEST_SUITE(safetensors_refusals, Folder)

BOOST_AUTO_TEST_CASE(truncated_at_every_length) {
  const std::string bytes = sample_bytes(*this);
  for (std::size_t length = 0; length < bytes.size(); ++length) check_refused(*this, bytes.substr(0, length));
}

BOOST_AUTO_TEST_CASE(trailing_bytes) {
  check_refused(*this, sample_bytes(*this) + "x");
  check_refused(*this, file_of("{}", "x"));
}

BOOST_AUTO_TEST_CASE(bad_header_lengths) {
  for (const std::uint64_t length : {std::uint64_t{3}, std::uint64_t{1000}, std::uint64_t{1} << 40,
                                     std::uint64_t{1} << 63, ~std::uint64_t{0}, ~std::uint64_t{0} - 7}) {
    check_refused(*this, std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + "{}");
  }
}

BOOST_AUTO_TEST_CASE(headers_that_are_no_object) {
  for (const std::string header : {"", " ", "[]", "1", "null", "\"text\"", "{", "{}}", "{\"a\"}", "nonsense", "\xff",
                                   "{\"a\":1}", "{\"a\":[]}", "{\"a\":null}", "{\"a\":{}}"}) {
    check_refused(*this, file_of(header, ""));
  }
  check_refused(*this, file_of(std::string(100'000, '['), ""));
  check_refused(*this, file_of(std::string(100'000, '[') + std::string(100'000, ']'), ""));
}

BOOST_AUTO_TEST_CASE(bad_entries) {
  const auto refused = [&](const std::string& text, const std::string& data = std::string(8, 'x')) {
    check_refused(*this, file_of(R"({"a":)" + text + "}", data), {"'a'"});
  };
  refused(entry("F8_E4M3", "[8]", "[0,8]"));
  refused(entry("", "[4]", "[0,8]"));
  refused(entry("F32", "[3]", "[0,8]"));   // too many bytes
  refused(entry("F32", "[2]", "[0,7]"));   // not whole elements
  refused(entry("F32", "[-2]", "[0,8]"));  // negative
  refused(entry("F32", "[-1,-2]", "[0,8]"));
  refused(entry("F32", "[2.0]", "[0,8]"));  // no integer
  refused(entry("F32", "[\"2\"]", "[0,8]"));
  refused(entry("F32", "2", "[0,8]"));
  refused(entry("F32", "[1,1,1,1,1,1,2]", "[0,8]"));  // more axes than there can be
  refused(entry("F32", "[2]", "[0,4,8]"));
  refused(entry("F32", "[2]", "[8]"));
  refused(entry("F32", "[2]", "[8,0]"));
  refused(entry("F32", "[2]", "[0,800]"));
  refused(entry("F32", "[2]", "[-8,0]"));
  refused(entry("F32", "[2]", "[0,1e1]"));
  refused(entry("F32", "[2]", "[18446744073709551608,18446744073709551616]"));
  refused(entry("F32", "[2]", "[18446744073709551600,18446744073709551608]"));
  refused(entry("F32", "[0]", "[4,12]"));
  refused(R"({"dtype":7,"shape":[2],"data_offsets":[0,8]})");
  constexpr std::size_t kDeep = 2'000'000;
  refused(R"({"dtype":)" + std::string(kDeep, '[') + std::string(kDeep, ']') + R"(,"shape":[2],"data_offsets":[0,8]})");
  refused(R"({"shape":[2],"data_offsets":[0,8]})");
  refused(R"({"dtype":"F32","data_offsets":[0,8]})");
  refused(R"({"dtype":"F32","shape":[2]})");
}

BOOST_AUTO_TEST_CASE(shapes_that_overflow) {
  for (const std::string shape :
       {"[4294967296,4294967296]", "[4294967296,4294967296,4]", "[9223372036854775807]", "[18446744073709551615]",
        "[18446744073709551616]", "[4611686018427387904,4]", "[2305843009213693953]", "[0,4294967296,4294967296]"}) {
    BOOST_TEST_CONTEXT(shape) {
      check_refused(*this, file_of(R"({"a":)" + entry("F64", shape, "[0,8]") + "}", std::string(8, 'x')));
      check_refused(*this, file_of(R"({"a":)" + entry("F64", shape, "[0,0]") + "}", ""));
    }
  }
}

BOOST_AUTO_TEST_CASE(overlaps_and_holes) {
  const auto two = [&](const std::string& first, const std::string& second, std::size_t bytes) {
    check_refused(*this, file_of(R"({"a":)" + entry("U8", "[2]", first) + R"(,"b":)" + entry("U8", "[2]", second) + "}",
                                 std::string(bytes, 'x')));
  };
  two("[0,2]", "[1,3]", 3);
  two("[0,2]", "[0,2]", 2);
  two("[0,2]", "[3,5]", 5);
  two("[1,3]", "[3,5]", 5);
  two("[0,2]", "[2,4]", 5);
}

BOOST_AUTO_TEST_CASE(duplicate_names) {
  const std::string a = entry("U8", "[2]", "[0,2]");
  check_refused(*this, file_of(R"({"a":)" + a + R"(,"a":)" + a + "}", "xx"));
  check_refused(*this, file_of(R"({"a":)" + a + R"(,"a":)" + entry("U8", "[2]", "[2,4]") + "}", "xxxx"));
}

BOOST_AUTO_TEST_CASE(duplicate_keys) {
  check_refused(*this, file_of(R"({"a":{"dtype":"U8","dtype":"BOOL","shape":[2],"data_offsets":[0,2]}})", "\1\1"),
                {"two keys 'dtype'"});
  check_refused(*this, file_of(R"({"__metadata__":{"k":"1","k":"2"}})", ""), {"two keys 'k'"});
  const std::string a = entry("U8", "[1]", "[0,1]");
  const SafetensorsFile read = read_safetensors(with(
      *this,
      file_of(R"({"a":)" + a + R"(,"dtype":)" + entry("U8", "[1]", "[1,2]") + R"(,"__metadata__":{"a":"b"}})", "xx")));
  BOOST_CHECK_EQUAL(read.tensors.size(), 2u);
}

BOOST_AUTO_TEST_CASE(bad_metadata) {
  for (const std::string value : {"1", "\"text\"", "[\"a\"]", "{\"a\":1}", "{\"a\":{}}", "{\"a\":null}"}) {
    BOOST_TEST_CONTEXT(value) { check_refused(*this, file_of(R"({"__metadata__":)" + value + "}", "")); }
  }
}

BOOST_AUTO_TEST_CASE(headers_may_not_nest_deeply) {
  const auto extended = [&](const std::string& extra) {
    return file_of(R"({"a":{"dtype":"U8","note":)" + extra + R"(,"shape":[1],"data_offsets":[0,1]}})", "A");
  };
  for (const std::string extra : {"1", "-1.5e3", "null", "true", "\"text\"", "[1,\"a\",null]", R"({"dtype":"F32"})"}) {
    check_equal(read_safetensors(with(*this, extended(extra))).tensors.at("a"), {65});
  }
  for (const std::string extra : {"[[]]", "[{}]", "{\"b\":[]}", "{\"b\":{}}"})
    check_refused(*this, extended(extra), {"nests"});
}

BOOST_AUTO_TEST_CASE(texts_and_metadata_have_a_largest_size) {
  const std::string longest((4 << 20) - 3, 'x'), longer((4 << 20) + 1, 'x');
  SafetensorsFile file;
  file.metadata["note"] = longest;
  write_safetensors(*this / "f", file);
  BOOST_CHECK(read_safetensors(*this / "f").metadata.at("note") == longest);
  file.metadata["note"] = longer;
  BOOST_CHECK_THROW(write_safetensors(*this / "f", file), FileError);
  check_refused(*this, file_of(R"({"__metadata__":{"note":")" + longer + "\"}}", ""), {"longer than"});
  check_refused(*this, file_of("{" + std::string(5 << 20, ' ') + "}", ""), {"longer than"});
  BOOST_CHECK(read_safetensors(with(*this, file_of("{}" + std::string(5 << 20, ' '), ""))).tensors.empty());
  file.metadata.clear();
  for (int i = 0; i < 65'536; ++i) file.metadata[std::to_string(i)];
  write_safetensors(*this / "f", file);
  BOOST_CHECK(read_safetensors(*this / "f").metadata == file.metadata);
  file.metadata["one more"];
  BOOST_CHECK_THROW(write_safetensors(*this / "f", file), FileError);
}

BOOST_AUTO_TEST_CASE(shapes_have_a_largest_number_of_axes) {
  const auto of_axes = [](int count) {
    std::string sizes = "[1";
    for (int i = 1; i < count; ++i) sizes += ",1";
    return file_of(R"({"a":)" + entry("U8", sizes + "]", "[0,1]") + "}", "A");
  };
  BOOST_CHECK_EQUAL(SafetensorsReader(with(*this, of_axes(255))).entry("a").sizes.size(), 255u);
  check_refused(*this, of_axes(256), {"'a'", "255 axes"});
}

BOOST_AUTO_TEST_CASE(headers_over_the_bound_of_the_reference) {
  const fs::path file = with(*this, file_of("{}", ""));
  fs::resize_file(file, 8 + 100'000'001);
  const std::uint64_t size = 100'000'001;
  std::fstream(file, std::ios::in | std::ios::out | std::ios::binary)
      .write(reinterpret_cast<const char*>(&size), sizeof(size));
  BOOST_CHECK_EXCEPTION(read_safetensors(file), FileError, says({"not a safetensors file"}));
}

BOOST_AUTO_TEST_CASE(only_regular_files_are_read) {
  BOOST_REQUIRE_EQUAL(::mkfifo((*this / "fifo").c_str(), 0600), 0);  // which nobody writes to
  BOOST_CHECK_EXCEPTION(read_safetensors(*this / "fifo"), FileError, says({"fifo", "FIFO", "regular file"}));
  BOOST_CHECK_EXCEPTION(read_safetensors(path()), FileError, says({"folder", "regular file"}));
  BOOST_CHECK_EXCEPTION(read_safetensors("/dev/zero"), FileError, says({"/dev/zero", "device", "regular file"}));
  BOOST_CHECK_EXCEPTION(read_safetensors(*this / "absent"), FileError, says({"absent", "No such file or directory"}));
  fs::create_symlink("loop", *this / "loop");
  BOOST_CHECK_EXCEPTION(read_safetensors(*this / "loop"), FileError, says({"loop", "Too many levels"}));
}

BOOST_AUTO_TEST_CASE(mutated_files_are_read_or_refused) {
  const std::string bytes = sample_bytes(*this);
  std::mt19937 engine(1);
  int refused = 0;
  for (int i = 0; i < 4000; ++i) {
    std::string changed = bytes;
    for (std::uint32_t changes = 1 + engine() % 4; changes > 0; --changes) {
      const std::size_t at = engine() % changed.size();
      switch (engine() % 4) {
        case 0:
          changed[at] = static_cast<char>(engine());
          break;
        case 1:
          changed[at] = static_cast<char>(changed[at] ^ (1 << engine() % 8));
          break;
        case 2:
          changed.erase(at, 1 + engine() % 8);
          break;
        default:
          changed.insert(at, changed.substr(engine() % changed.size(), 1 + engine() % 8));
          break;
      }
      if (changed.empty()) changed = "x";
    }
    try {
      for (const auto& [key, tensor] : read_safetensors(with(*this, changed)).tensors) {
        BOOST_REQUIRE_LE(tensor.bytes(), changed.size());
        std::uint8_t seen = 0;
        for (std::size_t b = 0; b < tensor.bytes(); ++b) seen |= std::to_integer<std::uint8_t>(tensor.raw()[b]);
        (void)seen;
      }
    } catch (const FileError&) {
      ++refused;
    } catch (const std::exception& e) {
      BOOST_ERROR("mutation " << i << " gives another error: " << e.what());
    }
  }
  BOOST_CHECK_GT(refused, 2000);
}

BOOST_AUTO_TEST_SUITE_END()
