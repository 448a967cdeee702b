#include "tapecache/data/tokenizers/word_cache.h"

namespace tapecache::data::tokenizers {

void WordCache::encode(const Model& model, std::string_view piece, std::vector<std::int32_t>& ids) {
  if (piece.size() > kLongest) return model.encode(piece, ids);
  const std::uint64_t hash = hash_of(piece);
  std::size_t place = hash % kPlaces;
  for (; places_[place].ids_size != 0; place = (place + 1) % kPlaces) {
    const Word& word = places_[place];
    if (word.hash != hash || std::string_view(texts_).substr(word.begin, word.size) != piece) continue;
    const auto begin = ids_.begin() + word.ids_begin;
    ids.insert(ids.end(), begin, begin + word.ids_size);
    return;
  }
  const std::size_t before = ids.size();
  model.encode(piece, ids);
  if (ids.size() == before) return;
  if (words_ == kWords) {
    forget();
    place = hash % kPlaces;
  }
  places_[place] = {hash, static_cast<std::uint32_t>(texts_.size()), static_cast<std::uint32_t>(piece.size()),
                    static_cast<std::uint32_t>(ids_.size()), static_cast<std::uint32_t>(ids.size() - before)};
  ++words_;
  texts_ += piece;
  ids_.insert(ids_.end(), ids.begin() + static_cast<std::ptrdiff_t>(before), ids.end());
}

void WordCache::forget() {
  places_.assign(kPlaces, {});
  words_ = 0;
  texts_.clear();
  ids_.clear();
}

}  // namespace tapecache::data::tokenizers
