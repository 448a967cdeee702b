#pragma once

#include <optional>
#include <string>
#include <utility>

#include "tapecache/data/tokenizers/model.h"

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

/// Byte-pair encoding: of the neighbours in a word that a rule merges, those of the first rule are merged first.
class Bpe : public Model {
 public:
  explicit Bpe(const Field& field);

  void encode(std::string_view piece, std::vector<std::int32_t>& ids) const override;

 private:
  struct Merge {
    std::uint64_t pair;  // kFree for a free place
    std::int32_t rank, id;
  };
  static constexpr std::uint64_t kFree = ~std::uint64_t{0};

  void read_merges(const Field& field);
  void add_merge(const Field& field, std::string_view left, std::string_view right, std::int32_t rank);
  const Merge* merge_of(std::int32_t left, std::int32_t right) const;
  std::int32_t id_of_character(std::string_view piece, std::size_t begin, std::size_t end) const;
  void take_characters(std::string_view piece, std::vector<std::int32_t>& symbols) const;
  void merge_few(std::vector<std::int32_t>& symbols) const;
  void merge_many(std::vector<std::int32_t>& symbols) const;

  std::vector<Merge> merges_;             // a table that is a power of two long
  std::vector<std::int32_t> characters_;  // ids of those of at most two bytes, as they are inside a word
  std::string prefix_, suffix_;
  std::int32_t unknown_ = kNone;
  bool has_unknown_ = false, fuse_unknown_ = false, byte_fallback_ = false, ignore_merges_ = false;
  std::vector<std::int32_t> bytes_;  // ids of the tokens for bytes
};

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
