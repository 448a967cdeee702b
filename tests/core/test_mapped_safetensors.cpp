#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include "safetensors_files.h"
#include "tapecache/core/allocator.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/reduce.h"

// Files that are mapped into memory and not read.

using namespace tapecache;
using namespace tapecache::testing;

namespace fs = std::filesystem;

namespace {

constexpr SafetensorsOptions kMapped{.memory_map = true};
constexpr std::int64_t kRows = 300, kCols = 304;  // more than is copied, and no whole number of pages

/// As many bytes as are this process's own, as the system counts them.
std::int64_t anonymous_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    std::int64_t kilobytes = 0;
    if (word == "RssAnon:" && status >> kilobytes) return kilobytes << 10;
  }
  return -1;
}

SafetensorsFile of_each_type() {
  SafetensorsFile file;
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16, DType::kInt32,
                            DType::kInt64, DType::kUInt8, DType::kBool}) {
    const Tensor values = random_values({kRows, kCols}, 1, DType::kFloat32);
    file.tensors[std::string(name(dtype))] = (is_floating(dtype) ? values : ops::scale(values, 100).value()).to(dtype);
    file.tensors["small " + std::string(name(dtype))] = Tensor::full({3}, 1, dtype);
  }
  file.tensors["empty"] = Tensor::zeros({0, 5});
  file.metadata = {{"format", "pt"}};
  return file;
}

}  // namespace

BOOST_FIXTURE_TEST_SUITE(mapped_safetensors, Folder)

BOOST_AUTO_TEST_CASE(hold_what_is_read) {
  const SafetensorsFile file = of_each_type();
  write_safetensors(*this / "f", file);
  const std::size_t before = allocator().stats().current;
  const SafetensorsFile mapped = read_safetensors(*this / "f", kMapped);
  BOOST_TEST((mapped.metadata == file.metadata));
  BOOST_TEST(mapped.tensors.size() == file.tensors.size());
  std::size_t copied = 0;
  for (const auto& [key, tensor] : file.tensors) {
    const Tensor& found = mapped.tensors.at(key);
    BOOST_TEST(same_bits(found, tensor), key);
    const bool is_view = tensor.bytes() >= 64 << 10 && tensor.dtype() != DType::kBool;
    BOOST_TEST(found.is_wrapped() == is_view, key);
    if (!is_view) copied += Allocator::block_size(tensor.bytes());
  }
  BOOST_TEST(allocator().stats().current - before <= copied);
  // Of another type it is converted, which is a copy.
  const SafetensorsReader reader(*this / "f", kMapped);
  const Tensor converted = reader.read("float16", DType::kFloat32);
  BOOST_TEST(!converted.is_wrapped());
  BOOST_TEST(same_bits(converted, file.tensors.at("float16").to(DType::kFloat32)));
  BOOST_TEST(reader.read("float16", DType::kFloat16).is_wrapped());
}

BOOST_AUTO_TEST_CASE(are_computed_with) {
  const Tensor values = random_values({kRows, kCols}, 1, DType::kFloat32);
  write_safetensors(*this / "f", {{{"a", Tensor::zeros({3}, DType::kUInt8)}, {"b", values}}, {}});
  const Tensor mapped = SafetensorsReader(*this / "f", kMapped).read("b");
  BOOST_TEST(same_bits(ops::sum(mapped).value(), ops::sum(values).value()));
}

BOOST_AUTO_TEST_CASE(change_alone) {
  const Tensor values = random_values({kRows, kCols}, 1, DType::kFloat32);
  write_safetensors(*this / "f", {{{"a", values}, {"b", values}}, {}});
  const std::string bytes = contents(*this / "f");
  const SafetensorsReader reader(*this / "f", kMapped);
  Tensor a = reader.read("a");
  const Tensor again = reader.read("a"), b = reader.read("b");
  BOOST_TEST(a.is_wrapped());
  a.fill(7);
  BOOST_TEST(same_bits(a, Tensor::full({kRows, kCols}, 7)));
  BOOST_TEST(same_bits(again, values));
  BOOST_TEST(same_bits(b, values));  // which begins on the page that the other ends on
  BOOST_TEST(same_bits(reader.read("a"), values));
  a = Tensor();
  BOOST_TEST((contents(*this / "f") == bytes));
}

BOOST_AUTO_TEST_CASE(that_are_not_aligned_are_copied) {
  const std::size_t size = 100'000;
  std::string data(1 + 4 * size, 'x');
  std::iota(data.begin(), data.end(), '\0');
  const std::string header =
      R"({"byte":)" + entry("U8", "[1]", "[0,1]") + R"(,"f":)" + entry("F32", "[100000]", "[1,400001]") + "}";
  // By where the header ends every place is taken that a tensor may have.
  for (std::size_t spaces = 0; spaces < 8; ++spaces) {
    const std::string padded = header + std::string(spaces, ' ');
    const fs::path path = with(*this, file_of(padded, data));
    const Tensor mapped = SafetensorsReader(path, kMapped).read("f");
    BOOST_TEST(mapped.is_wrapped() == ((8 + padded.size() + 1) % 4 == 0));
    BOOST_TEST(same_bits(mapped, SafetensorsReader(path).read("f")));
  }
}

BOOST_AUTO_TEST_CASE(outlive_reader_and_name) {
  const Tensor values = random_values({kRows, kCols}, 1, DType::kFloat32);
  SafetensorsFile file{{{"a", values}}, {}};
  write_safetensors(*this / "f", file);
  Tensor mapped;
  {
    const SafetensorsReader reader(*this / "f", kMapped);
    mapped = reader.read("a").slice(1, 200);
  }
  BOOST_TEST(same_bits(mapped, values.slice(1, 200)));
  // Another file in its place, as this library writes them; also one that is made of the mapped one.
  write_safetensors(*this / "f", {{{"a", Tensor::zeros({kRows, kCols})}}, {}});
  BOOST_TEST(same_bits(mapped, values.slice(1, 200)));
  file.tensors["a"] = mapped;
  write_safetensors(*this / "f", file);
  BOOST_TEST(same_bits(mapped, values.slice(1, 200)));
  BOOST_TEST(same_bits(read_safetensors(*this / "f").tensors.at("a"), mapped));
  const Tensor last = SafetensorsReader(*this / "f", kMapped).read("a");
  fs::remove(*this / "f");
  BOOST_TEST(same_bits(last, mapped));
}

/// And are given back with the last tensor.
BOOST_AUTO_TEST_CASE(take_no_memory_of_the_process) {
  if (anonymous_bytes() < 0) return;  // a system that does not tell
  const std::int64_t size = 32 << 20;
  write_safetensors(*this / "f", {{{"a", Tensor::full({size / 4}, 3)}}, {}});
  const auto grown = [&](const SafetensorsOptions& options) {
    const std::int64_t before = anonymous_bytes();
    const SafetensorsFile file = read_safetensors(*this / "f", options);
    BOOST_TEST(ops::sum(file.tensors.at("a")).value().item() == 3.0 * static_cast<double>(size / 4));
    return anonymous_bytes() - before;
  };
#if !defined(__SANITIZE_THREAD__)  // which keeps four bytes of its own for each that is read
  BOOST_TEST(grown(kMapped) < size / 8);
#endif
  allocator().release_cache();
  BOOST_TEST(grown({}) > size / 2);
  const auto mappings = [] {
    const std::string maps = contents("/proc/self/maps");
    return std::ranges::count(maps, '\n');
  };
  const auto before = mappings();
  for (int i = 0; i < 100; ++i) grown(kMapped);
  BOOST_TEST(mappings() < before + 50);
}

BOOST_AUTO_TEST_CASE(are_refused_as_others_are) {
  write_safetensors(*this / "f", {{{"a", Tensor::zeros({kRows, kCols})}}, {}});
  const SafetensorsReader reader(*this / "f", kMapped);
  BOOST_CHECK_EXCEPTION(reader.read("b"), FileError, says({"'b'", "is missing"}));
  // One that was cut before is no mapping whose pages are missing.
  fs::resize_file(*this / "f", fs::file_size(*this / "f") - 1);
  BOOST_CHECK_EXCEPTION(reader.read("a"), FileError, says({"'a'", "truncated"}));
  const std::string whole = contents(*this / "f");
  const auto message = [](const fs::path& path, const SafetensorsOptions& options) {
    try {
      read_safetensors(path, options);
    } catch (const FileError& e) {
      return std::string(e.what());
    }
    return std::string("read");
  };
  for (const std::string& bad :
       {whole, whole.substr(0, 4),
        file_of(R"({"a":)" + entry("F8_E4M3", "[70000]", "[0,70000]") + "}", std::string(70000, 'x')),
        file_of(R"({"a":)" + entry("U8", "[1,1,1,1,1,1,70000]", "[0,70000]") + "}", std::string(70000, 'x'))}) {
    const fs::path path = with(*this, bad);
    const std::string expected = message(path, {});
    BOOST_TEST(expected != "read");
    BOOST_TEST(message(path, kMapped) == expected);
  }
}

BOOST_AUTO_TEST_SUITE_END()
