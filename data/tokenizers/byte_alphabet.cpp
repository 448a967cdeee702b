#include "tapecache/data/tokenizers/byte_alphabet.h"

#include <array>

#include "tapecache/data/tokenizers/unicode.h"

namespace tapecache::data::tokenizers {

namespace {

struct Letter {
  char bytes[2];
  unsigned size;
};

/// Visible characters of Latin-1 stand for their own numbers, those from U+0100 on for the other bytes in turn.
std::array<Letter, 256> make_alphabet() {
  std::array<Letter, 256> alphabet{};
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool visible = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
    std::string character;
    append_character(character, visible ? byte : next++);
    Letter& letter = alphabet[byte];
    letter.size = static_cast<unsigned>(character.size());
    character.copy(letter.bytes, 2);
  }
  return alphabet;
}

}  // namespace

void append_in_byte_alphabet(std::string_view bytes, std::string& text) {
  static const std::array<Letter, 256> alphabet = make_alphabet();
  for (const char byte : bytes) {
    const Letter& letter = alphabet[static_cast<unsigned char>(byte)];
    text.append(letter.bytes, letter.size);
  }
}

}  // namespace tapecache::data::tokenizers
