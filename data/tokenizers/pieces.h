#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tapecache/data/tokenizers/vocabulary.h"

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

/// Parts of a text, none of which is empty, and tokens between them.
class Pieces {
 public:
  struct Piece {
    std::size_t begin, end;
    std::int32_t id;   // of a token; kNone: a part of the text
    bool starts_text;  // what the user gave begins with it
  };

  void clear() {
    text_.clear();
    pieces_.clear();
  }
  const std::vector<Piece>& all() const { return pieces_; }
  std::string_view text(const Piece& piece) const {
    return std::string_view(text_).substr(piece.begin, piece.end - piece.begin);
  }

  void add_token(std::int32_t id) { pieces_.push_back({0, 0, id, false}); }
  void add_text(std::string_view text, bool starts_text) {
    if (text.empty()) return;
    pieces_.push_back({text_.size(), text_.size() + text.size(), kNone, starts_text});
    text_ += text;
  }

  /// Cuts each part by `cut(text, emit)`, which calls `emit(begin, end)` for what is kept of it.
  template <class Cut>
  void cut(Cut cut) {
    spare_.clear();
    for (const Piece& piece : pieces_) {
      if (piece.id != kNone) {
        spare_.push_back(piece);
        continue;
      }
      cut(text(piece), [&](std::size_t begin, std::size_t end) {
        if (begin == end) return;
        spare_.push_back({piece.begin + begin, piece.begin + end, kNone, piece.starts_text && begin == 0});
      });
    }
    pieces_.swap(spare_);
  }

  /// Writes each part anew by `write(text, starts_text, result, emit)`, which appends to `result` and calls
  /// `emit(begin)` with its size before each new part and `emit(result.size())` after the last.
  template <class Write>
  void rewrite(Write write) {
    spare_.clear();
    spare_text_.clear();
    for (const Piece& piece : pieces_) {
      if (piece.id != kNone) {
        spare_.push_back(piece);
        continue;
      }
      bool starts = piece.starts_text;
      std::size_t begin = spare_text_.size();
      write(text(piece), piece.starts_text, spare_text_, [&](std::size_t end) {
        if (begin < end) {
          spare_.push_back({begin, end, kNone, starts});
          starts = false;
        }
        begin = end;
      });
    }
    pieces_.swap(spare_);
    text_.swap(spare_text_);
  }

 private:
  std::string text_, spare_text_;
  std::vector<Piece> pieces_, spare_;
};

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
