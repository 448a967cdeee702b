#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "checks.h"
#include "folder.h"
#include "tapecache/core/error.h"
#include "tapecache/core/files.h"

/// Safetensors files that are made byte by byte.
namespace tapecache::testing {

inline std::string file_of(const std::string& header, const std::string& data) {
  const std::uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + header + data;
}

inline std::string entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

inline SafetensorsFile sample() {
  SafetensorsFile file;
  file.tensors["weight"] = Tensor::from<float>({1, 2, 3, 4, 5, 6}, {2, 3});
  file.tensors["ids"] = Tensor::from<std::int64_t>({7, -8}, {2});
  file.tensors["mask"] = vector_of({1, 0, 1}).to(DType::kBool);
  file.metadata["step"] = "12";
  return file;
}

inline std::string sample_bytes(const Folder& folder) {
  const std::filesystem::path path = folder / "sample.safetensors";
  write_safetensors(path, sample());
  return contents(path);
}

inline std::filesystem::path with(const Folder& folder, const std::string& bytes) {
  std::filesystem::remove(folder / "given.safetensors");  // some file systems flush what is written over
  put(folder / "given.safetensors", bytes);
  return folder / "given.safetensors";
}

inline void check_refused(const Folder& folder, const std::string& bytes, std::vector<std::string> words = {}) {
  words.emplace_back("given.safetensors");
  BOOST_CHECK_EXCEPTION(read_safetensors(with(folder, bytes)), FileError, says(words));
}

}  // namespace tapecache::testing
