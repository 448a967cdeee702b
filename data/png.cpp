#include "tapecache/data/png.h"

#include <png.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <system_error>
#include <vector>

#include <fmt/format.h>

#include "tapecache/core/error.h"

namespace tapecache::data {
namespace {

constexpr std::array<png_uint_32, 4> kFormats = {PNG_FORMAT_GRAY, PNG_FORMAT_GA, PNG_FORMAT_RGB, PNG_FORMAT_RGBA};

/// Releases what libpng attached to its control structure, whichever way the scope is left.
struct PngControl {
  png_image value{};
  PngControl() { value.version = PNG_IMAGE_VERSION; }
  PngControl(const PngControl&) = delete;
  PngControl& operator=(const PngControl&) = delete;
  ~PngControl() { png_image_free(&value); }
};

std::vector<std::uint8_t> encode(const Image& image) {
  PngControl png;
  png.value.width = static_cast<png_uint_32>(image.width);
  png.value.height = static_cast<png_uint_32>(image.height);
  png.value.format = kFormats[static_cast<std::size_t>(image.channels - 1)];
  // The bound holds for any content, so that one pass compresses straight into the result.
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(png.value);
  std::vector<std::uint8_t> bytes(size);
  if (png_image_write_to_memory(&png.value, bytes.data(), &size, 0, image.pixels.data(), 0, nullptr) == 0) {
    throw FileError(fmt::format("write_png: libpng: {}", png.value.message));
  }
  bytes.resize(size);
  return bytes;
}

/// A file that is removed again unless `publish` moved it to its final name.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::filesystem::path& target) : target_(target), path_(target) {
    path_ += fmt::format(".{:08x}.tmp", std::random_device{}());
    file_.reset(std::fopen(path_.string().c_str(), "wbx"));
    if (!file_) fail("create", errno);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    if (published_) return;
    file_.reset();
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }

  void write(const std::vector<std::uint8_t>& bytes) {
    if (std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) != bytes.size()) fail("write", errno);
  }

  void publish() {
    // Closing can be where a full disk shows, so its result counts.
    if (std::fclose(file_.release()) != 0) fail("close", errno);
    std::error_code error;
    std::filesystem::rename(path_, target_, error);
    if (error) fail("rename to its final name", error.value());
    published_ = true;
  }

 private:
  [[noreturn]] void fail(const char* action, int code) const {
    throw FileError(fmt::format("write_png: cannot {} the file for {}: {}", action, target_.string(),
                                std::generic_category().message(code)));
  }

  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::filesystem::path target_;
  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> file_;
  bool published_ = false;
};

}  // namespace

void write_png(const std::filesystem::path& path, const Image& image) {
  check_image(image, "write_png");
  const std::vector<std::uint8_t> bytes = encode(image);
  TemporaryFile file(path);
  file.write(bytes);
  file.publish();
}

}  // namespace tapecache::data
