#include "checks.h"
#include "folder.h"

#include <sys/stat.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "tapecache/core/error.h"
#include "tapecache/core/memory_scopes.h"
#include "tapecache/core/safetensors.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {

namespace fs = std::filesystem;

std::string file_of(const std::string& header, const std::string& data) {
  const std::uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + header + data;
}

std::string entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

SafetensorsFile sample() {
  SafetensorsFile file;
  file.tensors["weight"] = Tensor::from<float>({1, 2, 3, 4, 5, 6}, {2, 3});
  file.tensors["ids"] = Tensor::from<std::int64_t>({7, -8}, {2});
  file.tensors["mask"] = vector_of({1, 0, 1}).to(DType::kBool);
  file.metadata["step"] = "12";
  return file;
}

std::string sample_bytes(const Folder& folder) {
  const fs::path path = folder / "sample.safetensors";
  write_safetensors(path, sample());
  return contents(path);
}

fs::path with(const Folder& folder, const std::string& bytes) {
  fs::remove(folder / "given.safetensors");  // some file systems flush what is written over
  put(folder / "given.safetensors", bytes);
  return folder / "given.safetensors";
}

void check_refused(const Folder& folder, const std::string& bytes, std::vector<std::string> words = {}) {
  words.emplace_back("given.safetensors");
  BOOST_CHECK_EXCEPTION(read_safetensors(with(folder, bytes)), FileError, says(words));
}

}  // namespace

BOOST_FIXTURE_TEST_SUITE(safetensors, Folder)

BOOST_AUTO_TEST_CASE(round_trip_of_each_type) {
  SafetensorsFile file;
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16, DType::kInt32,
                            DType::kInt64, DType::kUInt8, DType::kBool}) {
    const std::string type(name(dtype));
    file.tensors[type] = vector_of({0, 1, 2, 100, 0.5, 1}).reshape({2, 3}).to(dtype);
    file.tensors[type + " scalar"] = Tensor::full({}, 1, dtype);
    file.tensors[type + " empty"] = Tensor::zeros({0, 5}, dtype);
    file.tensors[type + " rank 6"] = Tensor::full({1, 2, 1, 1, 3, 1}, 1, dtype);
  }
  file.metadata = {{"format", "pt"}, {"text", "quotes \" and \\ and\nlines, ünïcödé 🙂"}, {"", ""}};
  write_safetensors(*this / "f", file);
  const SafetensorsFile read = read_safetensors(*this / "f");
  BOOST_CHECK(read.metadata == file.metadata);
  BOOST_REQUIRE_EQUAL(read.tensors.size(), file.tensors.size());
  for (const auto& [key, tensor] : file.tensors) BOOST_CHECK_MESSAGE(same_bits(read.tensors.at(key), tensor), key);
}

BOOST_AUTO_TEST_CASE(an_empty_file_of_tensors) {
  write_safetensors(*this / "f", {});
  const SafetensorsFile read = read_safetensors(*this / "f");
  BOOST_CHECK(read.tensors.empty());
  BOOST_CHECK(read.metadata.empty());
}

BOOST_AUTO_TEST_CASE(views_are_written_without_their_surroundings) {
  SafetensorsFile file;
  file.tensors["rows"] = vector_of({0, 1, 2, 3, 4, 5}).reshape({3, 2}).slice(1, 2);
  write_safetensors(*this / "f", file);
  check_equal(read_safetensors(*this / "f").tensors.at("rows"), {2, 3});
}

BOOST_AUTO_TEST_CASE(the_format_is_that_of_others) {
  const std::string data("\x00\x00\x80\x3f\x00\x00\x00\xc0", 8);  // 1, -2
  const SafetensorsFile read = read_safetensors(
      with(*this, file_of(R"({"x":)" + entry("F32", "[2]", "[0,8]") + R"(,"__metadata__":{"a":"b"}}   )", data)));
  check_equal(read.tensors.at("x"), {1, -2});
  BOOST_CHECK_EQUAL(read.metadata.at("a"), "b");

  const std::string bytes = sample_bytes(*this);
  std::uint64_t header = 0;
  bytes.copy(reinterpret_cast<char*>(&header), sizeof(header));
  BOOST_CHECK_EQUAL(header % 8, 0u);
  BOOST_CHECK_EQUAL(bytes[8], '{');
}

BOOST_AUTO_TEST_CASE(entries_in_any_order) {
  const std::string header = R"({"b":)" + entry("U8", "[1]", "[1,2]") + R"(,"a":)" + entry("U8", "[1]", "[0,1]") +
                             R"(,"none":)" + entry("F64", "[0]", "[1,1]") + "}";
  const SafetensorsFile read = read_safetensors(with(*this, file_of(header, "AB")));
  check_equal(read.tensors.at("a"), {65});
  check_equal(read.tensors.at("b"), {66});
  BOOST_CHECK_EQUAL(read.tensors.at("none").numel(), 0);
}

BOOST_AUTO_TEST_CASE(missing_files_and_folders) {
  BOOST_CHECK_EXCEPTION(read_safetensors(*this / "absent"), FileError, says({"absent"}));
  BOOST_CHECK_THROW(read_safetensors(path()), FileError);
  BOOST_CHECK_THROW(read_safetensors(""), FileError);
}

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
  refused(entry("F32", "[3]", "[0,8]"));       // too many bytes
  refused(entry("F32", "[2]", "[0,7]"));       // not whole elements
  refused(entry("F32", "[-2]", "[0,8]"));      // negative
  refused(entry("F32", "[-1,-2]", "[0,8]"));
  refused(entry("F32", "[2.0]", "[0,8]"));     // no integer
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
  for (const std::string shape : {"[4294967296,4294967296]", "[4294967296,4294967296,4]", "[9223372036854775807]",
                                  "[18446744073709551615]", "[18446744073709551616]", "[4611686018427387904,4]",
                                  "[2305843009213693953]", "[0,4294967296,4294967296]"}) {
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
  const SafetensorsFile read = read_safetensors(with(*this, file_of(R"({"a":)" + a + R"(,"dtype":)" +
                                                     entry("U8", "[1]", "[1,2]") + R"(,"__metadata__":{"a":"b"}})", "xx")));
  BOOST_CHECK_EQUAL(read.tensors.size(), 2u);
}

BOOST_AUTO_TEST_CASE(bad_metadata) {
  for (const std::string value : {"1", "\"text\"", "[\"a\"]", "{\"a\":1}", "{\"a\":{}}", "{\"a\":null}"}) {
    BOOST_TEST_CONTEXT(value) { check_refused(*this, file_of(R"({"__metadata__":)" + value + "}", "")); }
  }
}

BOOST_AUTO_TEST_CASE(any_byte_but_0_is_true) {
  const std::string header = R"({"a":)" + entry("BOOL", "[3]", "[0,3]") + "}";
  const Tensor mask = read_safetensors(with(*this, file_of(header, std::string("\x02\0\xff", 3)))).tensors.at("a");
  for (std::size_t i = 0; i < 3; ++i) BOOST_CHECK_EQUAL(std::to_integer<int>(mask.raw()[i]), i == 1 ? 0 : 1);
}

BOOST_AUTO_TEST_CASE(what_stands_around_the_header) {
  const std::string json = R"({"a":)" + entry("U8", "[1]", "[0,1]") + "}";
  check_equal(read_safetensors(with(*this, file_of(" \n\t\r" + json + " \n\t\r ", "A"))).tensors.at("a"), {65});
  check_refused(*this, file_of(json + std::string(1, '\0'), "A"), {"NUL"});
  check_refused(*this, file_of(json + std::string(4, '\0') + "    ", "A"), {"NUL"});
  check_refused(*this, file_of("\xEF\xBB\xBF" + json, "A"), {"byte order mark"});
  check_refused(*this, file_of(json + "/**/", "A"));
  check_refused(*this, file_of(json + json, "A"));
}

BOOST_AUTO_TEST_CASE(metadata_that_is_null_is_none) {
  BOOST_CHECK(read_safetensors(with(*this, file_of(R"({"__metadata__":null})", ""))).metadata.empty());
  check_refused(*this, file_of(R"({"__metadata__":{},"__metadata__":{}})", ""), {"two keys '__metadata__'"});
}

BOOST_AUTO_TEST_CASE(what_this_library_has_no_type_for_is_passed_over_until_it_is_asked_for) {
  const std::vector<std::string> entries{entry("F8_E4M3", "[4]", "[0,4]"), entry("F4", "[2,4]", "[4,8]"),
                                         entry("NF4_OF_TOMORROW", "[3]", "[8,12]"), entry("U8", "[1,1,1,1,1,1,4]", "[12,16]"),
                                         entry("F16", "[2]", "[16,20]")};
  std::string header = "{";
  for (std::size_t i = 0; i < entries.size(); ++i) header += (i ? ",\"" : "\"") + std::to_string(i) + "\":" + entries[i];
  const fs::path file = with(*this, file_of(header + "}", std::string(16, 'x') + std::string("\0\x3c\0\xc0", 4)));
  const SafetensorsReader reader(file);
  check_equal(reader.read("4"), {1, -2});
  BOOST_CHECK(reader.read("4").dtype() == DType::kFloat16);
  BOOST_CHECK(reader.read("4", DType::kFloat64).dtype() == DType::kFloat64);
  check_equal(reader.read("4", DType::kFloat64), {1, -2});
  BOOST_CHECK_EQUAL(reader.entry("0").type, "F8_E4M3");
  BOOST_CHECK(!reader.entry("0").dtype);
  BOOST_CHECK(reader.entry("3").sizes == (std::vector<std::int64_t>{1, 1, 1, 1, 1, 1, 4}));
  BOOST_CHECK(reader.contains("2") && !reader.contains("5") && !reader.contains(""));
  for (const auto& [name, word] : {std::pair("0", "F8_E4M3"), std::pair("1", "F4"), std::pair("2", "NF4_OF_TOMORROW"),
                                   std::pair("3", "axes"), std::pair("5", "is missing")}) {
    BOOST_CHECK_EXCEPTION(reader.read(name), FileError, says({"given.safetensors", "'" + std::string(name) + "'", word}));
  }
  BOOST_CHECK_THROW(reader.read("0", DType::kFloat32), FileError);
  BOOST_CHECK_THROW(reader.entry("5"), FileError);
  BOOST_CHECK_THROW(read_safetensors(file), FileError);
  // Of types that the reference knows the sizes are checked all the same.
  for (const std::string& bad : {entry("F8_E4M3", "[4]", "[0,8]"), entry("F4", "[3]", "[0,1]"), entry("F4", "[3]", "[0,2]"),
                                entry("F6_E2M3", "[4]", "[0,4]"), entry("U16", "[2,2]", "[0,4]")}) {
    BOOST_CHECK_THROW(SafetensorsReader(with(*this, file_of(R"({"a":)" + bad + "}", std::string(8, 'x')))), FileError);
  }
}

BOOST_AUTO_TEST_CASE(a_reader_keeps_the_file_that_it_opened) {
  write_safetensors(*this / "f", sample());
  const SafetensorsReader reader(*this / "f");
  write_safetensors(*this / "f", {});
  BOOST_CHECK(same_bits(reader.read("weight"), sample().tensors.at("weight")));
  BOOST_CHECK_EQUAL(reader.metadata("step").value_or(""), "12");
  // One that another program cuts is an error.
  write_safetensors(*this / "f", sample());
  const SafetensorsReader cut(*this / "f");
  fs::resize_file(*this / "f", fs::file_size(*this / "f") - 1);
  BOOST_CHECK_EXCEPTION(cut.read("weight"), FileError, says({"'weight'", "truncated"}));
}

BOOST_AUTO_TEST_CASE(large_tensors_are_converted_piece_by_piece) {
  const Shape shape{2000, 300};
  SafetensorsFile file;
  file.tensors["a"] = random_values(shape, 5, DType::kFloat32).to(DType::kFloat16);
  write_safetensors(*this / "f", file);
  const SafetensorsReader reader(*this / "f");
  const std::size_t before = allocator().stats().current, result = 2000 * 300 * 4;
  const PeakMeter meter;
  const Tensor read = reader.read("a", DType::kFloat32);
  BOOST_CHECK_LE(meter.peak() - before, result + result / 8);
  BOOST_CHECK(same_bits(read, file.tensors.at("a").to(DType::kFloat32)));
}

BOOST_AUTO_TEST_CASE(headers_may_not_nest_deeply) {
  const auto extended = [&](const std::string& extra) {
    return file_of(R"({"a":{"dtype":"U8","note":)" + extra + R"(,"shape":[1],"data_offsets":[0,1]}})", "A");
  };
  for (const std::string extra : {"1", "-1.5e3", "null", "true", "\"text\"", "[1,\"a\",null]", R"({"dtype":"F32"})"}) {
    check_equal(read_safetensors(with(*this, extended(extra))).tensors.at("a"), {65});
  }
  for (const std::string extra : {"[[]]", "[{}]", "{\"b\":[]}", "{\"b\":{}}"}) check_refused(*this, extended(extra), {"nests"});
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
  std::fstream(file, std::ios::in | std::ios::out | std::ios::binary).write(reinterpret_cast<const char*>(&size), sizeof(size));
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
        case 0: changed[at] = static_cast<char>(engine()); break;
        case 1: changed[at] = static_cast<char>(changed[at] ^ (1 << engine() % 8)); break;
        case 2: changed.erase(at, 1 + engine() % 8); break;
        default: changed.insert(at, changed.substr(engine() % changed.size(), 1 + engine() % 8)); break;
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

BOOST_AUTO_TEST_CASE(what_cannot_be_written) {
  SafetensorsFile reserved;
  reserved.tensors["__metadata__"] = Tensor::zeros({1});
  BOOST_CHECK_THROW(write_safetensors(*this / "f", reserved), FileError);
  SafetensorsFile undefined;
  undefined.tensors["a"] = Tensor();
  BOOST_CHECK_THROW(write_safetensors(*this / "f", undefined), Error);
  SafetensorsFile not_utf8;
  not_utf8.metadata["a"] = "\xff\xfe";
  BOOST_CHECK_THROW(write_safetensors(*this / "f", not_utf8), FileError);
  BOOST_CHECK(fs::is_empty(path()));
}

BOOST_AUTO_TEST_SUITE_END()
