#include "idx_file.h"

#include <algorithm>
#include <array>
#include <limits>
#include <memory>
#include <string>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <zlib.h>

#include "tapecache/core/error.h"

namespace vit_fashion_mnist {

using tapecache::FileError;

namespace {

constexpr std::size_t kPiece = 1 << 20;

/// A file that zlib reads, whether it is compressed or not.
class GzipFile {
 public:
  explicit GzipFile(const std::filesystem::path& path)
      : path_(path.string()), file_(::gzopen(path_.c_str(), "rb"), ::gzclose) {
    if (!file_) throw FileError(fmt::format("{}: cannot be opened (Debian: dataset-fashion-mnist)", path_));
  }

  /// At most so many bytes; fewer at the end of the file.
  std::size_t read(std::uint8_t* to, std::size_t count) {
    const int got = ::gzread(file_.get(), to, static_cast<unsigned>(std::min(count, kPiece)));
    int code = Z_OK;
    const char* why = ::gzerror(file_.get(), &code);
    if (got < 0 || code == Z_BUF_ERROR || code == Z_DATA_ERROR) {
      throw FileError(
          fmt::format("{}: cannot be decompressed: {}", path_, code == Z_BUF_ERROR ? "it is cut off" : why));
    }
    return static_cast<std::size_t>(got);
  }

 private:
  std::string path_;
  std::unique_ptr<gzFile_s, int (*)(gzFile)> file_;
};

std::uint32_t big_endian(const std::uint8_t* bytes) {
  return std::uint32_t{bytes[0]} << 24 | std::uint32_t{bytes[1]} << 16 | std::uint32_t{bytes[2]} << 8 | bytes[3];
}

std::uint32_t read_number(GzipFile& file, const std::filesystem::path& path) {
  std::array<std::uint8_t, 4> bytes{};
  for (std::size_t have = 0; have < bytes.size();) {
    const std::size_t got = file.read(bytes.data() + have, bytes.size() - have);
    if (got == 0) throw FileError(fmt::format("{}: ends in its header", path.string()));
    have += got;
  }
  return big_endian(bytes.data());
}

}  // namespace

IdxBytes read_idx(const std::filesystem::path& path, int axes) {
  GzipFile file(path);
  const std::uint32_t magic = read_number(file, path), expected = 0x0800u + static_cast<std::uint32_t>(axes);
  if (magic != expected) {
    throw FileError(fmt::format("{}: begins with 0x{:08x}, expected 0x{:08x}, an IDX file of bytes with {} axes",
                                path.string(), magic, expected, axes));
  }
  IdxBytes result;
  std::uint64_t count = 1;
  for (int axis = 0; axis < axes; ++axis) {
    const std::uint32_t size = read_number(file, path);
    if (size > 0 && count > std::numeric_limits<std::uint64_t>::max() / size) {
      throw FileError(fmt::format("{}: its header's sizes are too large", path.string()));
    }
    count *= size;
    result.sizes.push_back(size);
  }
  // Memory grows with what the file has, not with what its header promises.
  while (true) {
    const std::size_t have = result.bytes.size();
    result.bytes.resize(have + kPiece);
    const std::size_t got = file.read(result.bytes.data() + have, kPiece);
    result.bytes.resize(have + got);
    if (got == 0 || result.bytes.size() > count) break;
  }
  if (result.bytes.size() != count) {
    throw FileError(fmt::format("{}: has {} {} bytes, its header says {} ({})", path.string(),
                                result.bytes.size() > count ? "more than" : "only",
                                std::min<std::uint64_t>(count, result.bytes.size()), count,
                                fmt::join(result.sizes, " x ")));
  }
  return result;
}

LabelledImages read_labelled_images(const std::filesystem::path& folder, const char* name, int classes) {
  const auto images_path = folder / fmt::format("{}-images-idx3-ubyte.gz", name);
  const auto labels_path = folder / fmt::format("{}-labels-idx1-ubyte.gz", name);
  IdxBytes images = read_idx(images_path, 3), labels = read_idx(labels_path, 1);
  const auto& sizes = images.sizes;
  if (sizes[1] != sizes[2] || sizes[1] == 0) {
    throw FileError(
        fmt::format("{}: pictures are {} x {}, expected square ones", images_path.string(), sizes[1], sizes[2]));
  }
  if (sizes[0] != labels.sizes[0] || sizes[0] == 0) {
    throw FileError(fmt::format("{}: has {} pictures, {} has {} labels", images_path.string(), sizes[0],
                                labels_path.string(), labels.sizes[0]));
  }
  const auto wrong = std::ranges::find_if(labels.bytes, [&](int label) { return label >= classes; });
  if (wrong != labels.bytes.end()) {
    throw FileError(fmt::format("{}: label {} is {}, expected 0 to {}", labels_path.string(),
                                wrong - labels.bytes.begin(), *wrong, classes - 1));
  }
  return {sizes[0], sizes[1], std::move(images.bytes), std::move(labels.bytes)};
}

}  // namespace vit_fashion_mnist
