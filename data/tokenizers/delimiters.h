#pragma once

#include <cstddef>

#include "tapecache/data/tokenizers/fields.h"

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

/// What becomes of the delimiters between which a text is cut.
enum class Delimiters { kRemoved, kIsolated, kContiguous, kMergedWithPrevious, kMergedWithNext };

Delimiters read_delimiters(const Field& field);

/// Takes the parts of a text in turn, and emits the pieces that it is cut into.
template <class Emit>
class Cutter {
 public:
  Cutter(Delimiters delimiters, Emit& emit) : delimiters_(delimiters), emit_(emit) {}

  void part(std::size_t begin, std::size_t end, bool delimiter) {
    bool joins = false;
    switch (delimiters_) {
      case Delimiters::kRemoved:
        if (!delimiter) emit_(begin, end);
        return;
      case Delimiters::kIsolated:
        emit_(begin, end);
        return;
      case Delimiters::kContiguous:
        joins = delimiter == last_;
        break;
      case Delimiters::kMergedWithPrevious:
        joins = delimiter && !last_;
        break;
      case Delimiters::kMergedWithNext:
        joins = last_ && !delimiter;
        break;
    }
    if (!joins || !keeps_) {
      finish();
      begin_ = begin;
    }
    end_ = end;
    keeps_ = true;
    last_ = delimiter;
  }
  void finish() {
    if (keeps_) emit_(begin_, end_);
    keeps_ = false;
  }

 private:
  Delimiters delimiters_;
  Emit& emit_;
  std::size_t begin_ = 0, end_ = 0;    // of the piece that may still grow
  bool keeps_ = false, last_ = false;  // whether there is one, and whether the last part was a delimiter
};

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
