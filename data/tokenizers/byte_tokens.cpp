#include "tapecache/data/tokenizers/byte_tokens.h"

#include <fmt/format.h>

namespace tapecache::data::tokenizers {

std::vector<std::int32_t> byte_tokens(const Vocabulary& vocabulary) {
  std::vector<std::int32_t> tokens;
  tokens.reserve(256);
  for (int byte = 0; byte < 256; ++byte) tokens.push_back(vocabulary.find(fmt::format("<0x{:02X}>", byte)));
  return tokens;
}

bool append_byte_tokens(const std::vector<std::int32_t>& tokens, std::string_view bytes,
                        std::vector<std::int32_t>& ids) {
  const std::size_t before = ids.size();
  for (const char byte : bytes) {
    const std::int32_t id = tokens[static_cast<unsigned char>(byte)];
    if (id == kNone) {
      ids.resize(before);
      return false;
    }
    ids.push_back(id);
  }
  return true;
}

}  // namespace tapecache::data::tokenizers
