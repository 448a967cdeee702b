#include "tapecache/core/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <memory>
#include <span>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "tapecache/core/allocator.h"
#include "tapecache/core/descriptor.h"
#include "tapecache/core/safetensors_header.h"

namespace tapecache {

static_assert(std::endian::native == std::endian::little, "safetensors are little-endian");

using detail::SafetensorsHeader;

namespace {

/// A regular file that is open for reading. Unless that is asked for it is read, not mapped: one that another program
/// cuts meanwhile is an error then, and not a signal that ends the process.
class OpenFile {
 public:
  explicit OpenFile(const std::filesystem::path& path) : where_(path.string()) {
    // Asked first, since opening some devices does something to them; and without waiting, should it be a FIFO by then.
    struct stat found {};
    if (::stat(where_.c_str(), &found) != 0) fail(errno);
    if (S_ISREG(found.st_mode)) {
      file_.reset(::open(where_.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
      if (!file_ || ::fstat(file_.get(), &found) != 0) fail(errno);
    }
    if (!S_ISREG(found.st_mode)) {
      throw FileError(fmt::format("{}: cannot be opened for reading: {}, expected a regular file", where_,
                                  S_ISDIR(found.st_mode) ? "it is a folder" : "it is a FIFO, device or socket"));
    }
    bytes_ = static_cast<std::uint64_t>(found.st_size);
  }

  const std::string& where() const { return where_; }
  std::uint64_t bytes() const { return bytes_; }

  /// All of `into`, from a byte of the file on. `what` is for messages.
  void read(std::span<std::byte> into, std::uint64_t from, std::string_view what) const {
    while (!into.empty()) {
      const ssize_t got = ::pread(file_.get(), into.data(), into.size(), static_cast<off_t>(from));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) {
        throw FileError(fmt::format("{}: reading {} failed: {}", where_, what,
                                    got < 0 ? std::strerror(errno) : "the file is truncated"));
      }
      into = into.subspan(static_cast<std::size_t>(got));
      from += static_cast<std::uint64_t>(got);
    }
  }

  /// Private pages that hold these bytes, which are there. `what` is for messages.
  std::shared_ptr<std::byte> map(std::uint64_t from, std::size_t bytes, std::string_view what) const {
    struct stat now {};
    if (::fstat(file_.get(), &now) != 0) fail(errno);
    if (static_cast<std::uint64_t>(now.st_size) < from + bytes) {
      throw FileError(fmt::format("{}: mapping {} failed: the file is truncated", where_, what));
    }
    const std::size_t before = from % static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)), size = before + bytes;
    void* const pages = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file_.get(),
                               static_cast<off_t>(from - before));
    if (pages == MAP_FAILED) {
      const int error = errno;
      const std::string message = fmt::format("{}: mapping {} failed: {}", where_, what, std::strerror(error));
      if (error == ENOMEM) throw OutOfMemory(message, size, allocator().stats().current, 0);
      throw FileError(message);
    }
    const std::shared_ptr<void> mapped(pages, [size](void* all) { ::munmap(all, size); });
    return {mapped, static_cast<std::byte*>(pages) + before};
  }

 private:
  [[noreturn]] void fail(int error) const {
    throw FileError(fmt::format("{}: cannot be opened for reading: {}", where_, std::strerror(error)));
  }

  std::string where_;
  detail::Descriptor file_;
  std::uint64_t bytes_ = 0;
};

std::span<std::byte> bytes_of(Tensor& tensor) { return {tensor.mutable_raw(), tensor.bytes()}; }

/// `data` becomes the byte at which the data begin.
SafetensorsHeader read_header(const OpenFile& file, std::uint64_t& data) {
  std::uint64_t size = 0;
  const std::uint64_t rest = file.bytes() < sizeof(size) ? 0 : file.bytes() - sizeof(size);
  if (rest > 0) file.read(std::as_writable_bytes(std::span(&size, 1)), 0, "its header");
  if (size > detail::kMaxSafetensorsHeader || size > rest || size == 0) {
    throw FileError(fmt::format("{}: not a safetensors file, or truncated within its header ({} bytes)", file.where(),
                                file.bytes()));
  }
  std::string text(size, '\0');
  file.read(std::as_writable_bytes(std::span(text)), sizeof(size), "its header");
  data = sizeof(size) + size;
  return SafetensorsHeader(file.where(), std::move(text), rest - size);
}

/// As the reference reads them: any byte but 0 is true.
void normalize_bools(Tensor& tensor) {
  const std::span<std::byte> bytes = bytes_of(tensor);
  std::ranges::transform(bytes, bytes.begin(), [](std::byte b) { return b == std::byte{0} ? b : std::byte{1}; });
}

/// A name or text in quotes, as JSON.
std::string quoted(const std::filesystem::path& path, const std::string& text) {
  std::string result;
  try {
    result = nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception& e) {
    throw FileError(fmt::format("{}: a name or metadata text is not UTF-8: {}", path.string(), e.what()));
  }
  if (result.size() >= detail::kMaxSafetensorsText) {
    throw FileError(fmt::format("{}: a name or metadata text takes {} bytes, expected less than {}", path.string(),
                                result.size(), detail::kMaxSafetensorsText));
  }
  return result;
}

/// Put together as text: the library's own values may allocate where they are destroyed, and then end the process for
/// lack of memory.
std::string header_of(const std::filesystem::path& path, const SafetensorsFile& file) {
  if (file.metadata.size() > detail::kMaxSafetensorsMetadata) {
    throw FileError(fmt::format("{}: {} keys of metadata, expected at most {}", path.string(), file.metadata.size(),
                                detail::kMaxSafetensorsMetadata));
  }
  std::string text = "{", metadata;
  for (const auto& [key, value] : file.metadata) {
    metadata += fmt::format("{}{}:{}", metadata.empty() ? "" : ",", quoted(path, key), quoted(path, value));
  }
  if (!metadata.empty()) text += fmt::format("\"__metadata__\":{{{}}}", metadata);
  std::uint64_t offset = 0;
  for (const auto& [name, tensor] : file.tensors) {
    if (name == "__metadata__") throw FileError(fmt::format("{}: no tensor may be named __metadata__", path.string()));
    if (!tensor.defined()) throw Error(fmt::format("{}: tensor '{}' was never given a value", path.string(), name));
    const std::uint64_t end = offset + tensor.bytes();
    text += fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                        text.size() == 1 ? "" : ",", quoted(path, name), detail::safetensors_type(tensor.dtype()),
                        fmt::join(tensor.shape().begin(), tensor.shape().end(), ","), offset, end);
    offset = end;
  }
  text += '}';
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > detail::kMaxSafetensorsHeader) {
    throw FileError(fmt::format("{}: its header would take {} bytes, expected at most {}", path.string(), text.size(),
                                detail::kMaxSafetensorsHeader));
  }
  return text;
}

}  // namespace

struct [[gnu::visibility("hidden")]] SafetensorsReader::Parts {
  using Found = SafetensorsHeader::Entry;

  OpenFile file;
  std::uint64_t data = 0;
  SafetensorsHeader header;

  bool maps;

  Parts(const std::filesystem::path& path, const SafetensorsOptions& options)
      : file(path), header(read_header(file, data)), maps(options.memory_map) {}

  FileError bad(std::string_view name, std::string_view what) const {
    return FileError(fmt::format("{}: tensor '{}': {}", file.where(), name, what));
  }

  const Found& found(std::string_view name) const {
    const Found* const entry = header.find(name);
    if (!entry) throw bad(name, "is missing");
    return *entry;
  }

  DType dtype(const Found& entry) const {
    const std::string_view type = header.text(entry.type);
    if (const auto dtype = detail::safetensors_dtype(type)) return *dtype;
    throw bad(header.text(entry.name),
              fmt::format("dtype {}, expected F32, F64, BF16, F16, I32, I64, U8 or BOOL", type));
  }

  Shape shape(const Found& entry) const {
    try {
      return Shape(std::span<const std::int64_t>(header.sizes(entry)));
    } catch (const ShapeError& e) {
      throw bad(header.text(entry.name), e.what());
    }
  }

  /// Elements of an entry of this type, as many as the tensor has, from one of them on.
  void read_into(Tensor & tensor, const Found& entry, std::int64_t first) const {
    const std::uint64_t from = data + entry.begin + static_cast<std::uint64_t>(first) * size_of(tensor.dtype());
    file.read(bytes_of(tensor), from, fmt::format("tensor '{}'", header.text(entry.name)));
    if (tensor.dtype() == DType::kBool) normalize_bools(tensor);
  }

  /// A view of the file; undefined where a copy is to be made.
  Tensor mapped(const Found& entry, const Shape& shape, DType dtype) const {
    constexpr std::size_t kSmallest =
        64 << 10;  // the fewer there are the better: a process may have some 65,000 mappings
    const std::uint64_t from = data + entry.begin;
    const std::size_t bytes = static_cast<std::size_t>(shape.numel()) * size_of(dtype);
    if (!maps || bytes < kSmallest || from % size_of(dtype) != 0 || dtype == DType::kBool) return {};
    std::shared_ptr<std::byte> memory = file.map(from, bytes, fmt::format("tensor '{}'", header.text(entry.name)));
    std::byte* const begin = memory.get();
    return Tensor::wrap(begin, shape, dtype, [memory = std::move(memory)]() mutable { memory.reset(); });
  }

  Tensor read(const Found& entry) const {
    const DType dtype = this->dtype(entry);
    const Shape shape = this->shape(entry);
    if (Tensor view = mapped(entry, shape, dtype); view.defined()) return view;
    Tensor result = Tensor::empty(shape, dtype);
    read_into(result, entry, 0);
    return result;
  }

  /// Piece by piece, so that only a small part is there in both types.
  Tensor read_as(const Found& entry, DType wanted) const {
    const DType dtype = this->dtype(entry);
    if (dtype == wanted) return read(entry);
    constexpr std::int64_t kSmallestPiece = 1 << 13;
    const Shape shape = this->shape(entry);
    Tensor result = Tensor::empty(shape, wanted);
    const Tensor flat = result.reshape({shape.numel()});
    const std::int64_t piece = std::max(kSmallestPiece, shape.numel() / 64);
    for (std::int64_t begin = 0; begin < shape.numel(); begin += piece) {
      const std::int64_t end = std::min(begin + piece, shape.numel());
      Tensor part = Tensor::empty({end - begin}, dtype);
      read_into(part, entry, begin);
      flat.slice(begin, end).copy_from(part.to(wanted));
    }
    return result;
  }
};

SafetensorsReader::SafetensorsReader(const std::filesystem::path& path, const SafetensorsOptions& options)
    : parts_(std::make_unique<Parts>(path, options)) {}
SafetensorsReader::~SafetensorsReader() = default;
SafetensorsReader::SafetensorsReader(SafetensorsReader&&) noexcept = default;
SafetensorsReader& SafetensorsReader::operator=(SafetensorsReader&&) noexcept = default;

std::map<std::string, std::string> SafetensorsReader::metadata() const {
  std::map<std::string, std::string> result;
  for (const auto& [key, value] : parts_->header.metadata()) {
    result.emplace(parts_->header.text(key), parts_->header.text(value));
  }
  return result;
}

std::optional<std::string> SafetensorsReader::metadata(std::string_view key) const {
  const auto found = parts_->header.metadata_of(key);
  return found ? std::optional(std::string(*found)) : std::nullopt;
}

std::vector<std::string> SafetensorsReader::names() const {
  std::vector<std::string> names;
  for (const auto& entry : parts_->header.entries()) names.emplace_back(parts_->header.text(entry.name));
  return names;
}

bool SafetensorsReader::contains(std::string_view name) const { return parts_->header.find(name) != nullptr; }

SafetensorsReader::Entry SafetensorsReader::entry(std::string_view name) const {
  const auto& found = parts_->found(name);
  const std::string_view type = parts_->header.text(found.type);
  return {std::string(type), detail::safetensors_dtype(type), parts_->header.sizes(found)};
}

Tensor SafetensorsReader::read(std::string_view name) const { return parts_->read(parts_->found(name)); }

Tensor SafetensorsReader::read(std::string_view name, DType dtype) const {
  return parts_->read_as(parts_->found(name), dtype);
}

SafetensorsFile read_safetensors(const std::filesystem::path& path, const SafetensorsOptions& options) {
  const SafetensorsReader reader(path, options);
  SafetensorsFile file;
  for (std::string& name : reader.names()) {
    Tensor tensor = reader.read(name);
    file.tensors.emplace(std::move(name), std::move(tensor));
  }
  file.metadata = reader.metadata();
  return file;
}

namespace {

void write_parts(AtomicFile& out, const std::string& header, const SafetensorsFile& file) {
  const std::uint64_t size = header.size();
  out.write({reinterpret_cast<const char*>(&size), sizeof(size)});
  out.write(header);
  for (const auto& [name, tensor] : file.tensors) {
    const Tensor host = tensor.to(Device::cpu());
    out.write({reinterpret_cast<const char*>(host.raw()), host.bytes()});
  }
}

}  // namespace

void detail::write_safetensors(AtomicFile& out, const std::filesystem::path& path, const SafetensorsFile& file) {
  write_parts(out, header_of(path, file), file);
}

void write_safetensors(const std::filesystem::path& path, const SafetensorsFile& file) {
  const std::string header = header_of(path, file);
  AtomicFile out(path);
  write_parts(out, header, file);
  out.finish();
}

}  // namespace tapecache
