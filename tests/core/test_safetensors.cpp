#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "safetensors_files.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/device.h"

// What is written, and what is read of files that are as they should be.

using namespace tapecache;
using namespace tapecache::testing;

namespace fs = std::filesystem;

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
                                         entry("NF4_OF_TOMORROW", "[3]", "[8,12]"),
                                         entry("U8", "[1,1,1,1,1,1,4]", "[12,16]"), entry("F16", "[2]", "[16,20]")};
  std::string header = "{";
  for (std::size_t i = 0; i < entries.size(); ++i)
    header += (i ? ",\"" : "\"") + std::to_string(i) + "\":" + entries[i];
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
    BOOST_CHECK_EXCEPTION(reader.read(name), FileError,
                          says({"given.safetensors", "'" + std::string(name) + "'", word}));
  }
  BOOST_CHECK_THROW(reader.read("0", DType::kFloat32), FileError);
  BOOST_CHECK_THROW(reader.entry("5"), FileError);
  BOOST_CHECK_THROW(read_safetensors(file), FileError);
  // Of types that the reference knows the sizes are checked all the same.
  for (const std::string& bad :
       {entry("F8_E4M3", "[4]", "[0,8]"), entry("F4", "[3]", "[0,1]"), entry("F4", "[3]", "[0,2]"),
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
