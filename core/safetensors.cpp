#include "tapecache/core/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <fstream>
#include <optional>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tapecache/core/atomic_file.h"

namespace tapecache {

static_assert(std::endian::native == std::endian::little, "safetensors are little-endian");

namespace {

constexpr std::uint64_t kMaxHeader = 100'000'000;  // the reference implementation's own bound

constexpr std::array<std::pair<const char*, DType>, 8> kTypes{{{"F32", DType::kFloat32},
                                                               {"F64", DType::kFloat64},
                                                               {"BF16", DType::kBFloat16},
                                                               {"F16", DType::kFloat16},
                                                               {"I32", DType::kInt32},
                                                               {"I64", DType::kInt64},
                                                               {"U8", DType::kUInt8},
                                                               {"BOOL", DType::kBool}}};

std::optional<DType> dtype_from(const std::string& text) {
  for (const auto& [type_name, dtype] : kTypes) {
    if (text == type_name) return dtype;
  }
  return std::nullopt;
}

const char* type_name_of(DType dtype) {
  return std::find_if(kTypes.begin(), kTypes.end(), [&](const auto& entry) { return entry.second == dtype; })->first;
}

struct Entry {
  std::string name;
  DType dtype;
  Shape shape;
  std::uint64_t begin, end;
};

Entry parse_entry(const std::string& where, const std::string& tensor_name, const nlohmann::json& item,
                  std::uint64_t data_bytes) {
  const auto bad = [&](const std::string& what) {
    return FileError(fmt::format("{}: tensor '{}': {}", where, tensor_name, what));
  };
  if (!item.is_object() || !item.contains("dtype") || !item.contains("shape") || !item.contains("data_offsets")) {
    throw bad("dtype, shape and data_offsets expected");
  }
  if (!item["dtype"].is_string()) throw bad(fmt::format("dtype is of type {}, expected string", item["dtype"].type_name()));
  const auto type_text = item["dtype"].get<std::string>();
  const auto dtype = dtype_from(type_text);
  if (!dtype) throw bad(fmt::format("dtype {}, expected F32, F64, BF16, F16, I32, I64, U8 or BOOL", type_text));

  const auto numbers = [&](const char* key, std::size_t at_most) {
    std::vector<std::int64_t> values;
    if (!item[key].is_array() || item[key].size() > at_most) throw bad(fmt::format("bad {}", key));
    for (const auto& v : item[key]) {
      if (!v.is_number_unsigned() || v.get<std::uint64_t>() >> 62) throw bad(fmt::format("bad {}", key));
      values.push_back(v.get<std::int64_t>());
    }
    return values;
  };
  const auto offsets = numbers("data_offsets", 2);
  if (offsets.size() != 2) throw bad("bad data_offsets");
  Entry entry{tensor_name, *dtype, {}, static_cast<std::uint64_t>(offsets[0]), static_cast<std::uint64_t>(offsets[1])};
  try {
    entry.shape = Shape(std::span<const std::int64_t>(numbers("shape", Shape::kMaxRank)));
  } catch (const ShapeError& e) {
    throw bad(e.what());
  }
  if (entry.end < entry.begin || entry.end > data_bytes) {
    throw bad(fmt::format("its data ends at byte {} of {}: the file is truncated or malformed", entry.end, data_bytes));
  }
  // Divided, not multiplied: a shape near 2^63 elements must not wrap around to a fitting size.
  const auto elements = static_cast<std::uint64_t>(entry.shape.numel());
  if ((entry.end - entry.begin) % size_of(*dtype) != 0 || (entry.end - entry.begin) / size_of(*dtype) != elements) {
    throw bad(fmt::format("{} bytes of data for {} {}", entry.end - entry.begin, type_text, to_string(entry.shape)));
  }
  return entry;
}

/// The header as JSON. Of a repeated key a JSON object keeps one value silently, so repeats are refused here.
nlohmann::json parse_header(const std::string& where, const std::string& text) {
  using Event = nlohmann::json::parse_event_t;
  std::vector<std::set<std::string>> keys;  // of each open object
  const auto refuse_repeats = [&](int, Event event, nlohmann::json& parsed) {
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(parsed.get<std::string>()).second) {
      const char* what = keys.size() == 1 ? "two tensors are named" : "an object of its header has two keys";
      throw FileError(fmt::format("{}: {} '{}'", where, what, parsed.get<std::string>()));
    }
    return true;
  };
  nlohmann::json header = nlohmann::json::parse(text, refuse_repeats, false);
  if (!header.is_object()) throw FileError(fmt::format("{}: its header is not a JSON object", where));
  return header;
}

void require_bools(const std::string& where, const std::string& name, const Tensor& tensor) {
  const auto* p = reinterpret_cast<const std::uint8_t*>(tensor.raw());
  if (std::any_of(p, p + tensor.bytes(), [](std::uint8_t byte) { return byte > 1; })) {
    throw FileError(fmt::format("{}: tensor '{}' is BOOL, but holds a byte other than 0 and 1", where, name));
  }
}

}  // namespace

SafetensorsFile read_safetensors(const std::filesystem::path& path) {
  const std::string where = path.string();
  std::error_code error;
  const std::uint64_t file_bytes = std::filesystem::file_size(path, error);
  std::ifstream in(path, std::ios::binary);
  if (error || !in) throw FileError(fmt::format("{}: cannot be opened for reading", where));

  std::uint64_t header_bytes = 0;
  in.read(reinterpret_cast<char*>(&header_bytes), sizeof(header_bytes));
  if (!in || header_bytes > kMaxHeader || header_bytes > file_bytes - sizeof(header_bytes)) {
    throw FileError(fmt::format("{}: not a safetensors file, or truncated within its header ({} bytes)", where,
                                file_bytes));
  }
  std::string text(header_bytes, '\0');
  in.read(text.data(), static_cast<std::streamsize>(header_bytes));
  if (!in) throw FileError(fmt::format("{}: reading its header failed", where));
  const nlohmann::json header = parse_header(where, text);

  const std::uint64_t data_bytes = file_bytes - sizeof(header_bytes) - header_bytes;
  SafetensorsFile file;
  std::vector<Entry> entries;
  for (const auto& [key, item] : header.items()) {
    if (key != "__metadata__") {
      entries.push_back(parse_entry(where, key, item, data_bytes));
      continue;
    }
    if (!item.is_object()) throw FileError(fmt::format("{}: its metadata is not a JSON object", where));
    for (const auto& [name, value] : item.items()) {
      if (!value.is_string()) throw FileError(fmt::format("{}: metadata '{}' is not a string", where, name));
      file.metadata[name] = value.get<std::string>();
    }
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  std::uint64_t expected = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != expected) {
      throw FileError(fmt::format("{}: tensor '{}' begins at byte {}, expected {}: data overlap or leave a hole", where,
                                  entry.name, entry.begin, expected));
    }
    expected = entry.end;
    Tensor tensor = Tensor::empty(entry.shape, entry.dtype);
    in.read(reinterpret_cast<char*>(tensor.mutable_raw()), static_cast<std::streamsize>(tensor.bytes()));
    if (!in) throw FileError(fmt::format("{}: reading tensor '{}' failed: the file is truncated", where, entry.name));
    if (entry.dtype == DType::kBool) require_bools(where, entry.name, tensor);
    file.tensors.emplace(entry.name, std::move(tensor));
  }
  if (expected != data_bytes) {
    throw FileError(fmt::format("{}: {} bytes of data, but its tensors take {}", where, data_bytes, expected));
  }
  return file;
}

void write_safetensors(const std::filesystem::path& path, const SafetensorsFile& file) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!file.metadata.empty()) header["__metadata__"] = file.metadata;
  std::vector<Tensor> host;
  std::uint64_t offset = 0;
  for (const auto& [key, tensor] : file.tensors) {
    if (key == "__metadata__") throw FileError(fmt::format("{}: no tensor may be named __metadata__", path.string()));
    host.push_back(tensor.to(Device::cpu()));
    const std::uint64_t end = offset + tensor.bytes();
    header[key] = {{"dtype", type_name_of(tensor.dtype())},
                   {"shape", std::vector<std::int64_t>(tensor.shape().begin(), tensor.shape().end())},
                   {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception& e) {
    throw FileError(fmt::format("{}: a name or metadata text is not UTF-8: {}", path.string(), e.what()));
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t header_bytes = text.size();

  std::vector<std::string_view> parts{{reinterpret_cast<const char*>(&header_bytes), sizeof(header_bytes)}, text};
  for (const Tensor& tensor : host) parts.emplace_back(reinterpret_cast<const char*>(tensor.raw()), tensor.bytes());
  write_file_atomically(path, parts);
}

}  // namespace tapecache
