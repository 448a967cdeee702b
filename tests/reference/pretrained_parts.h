#pragma once

#include <filesystem>
#include <vector>

#include "reference_cases.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/models/pretrained.h"

namespace tapecache::testing {

inline std::filesystem::path case_folder(const char* name) { return ReferenceCase{name}.folder(); }

/// A few texts of different lengths, padded on the right, or on the left.
inline models::TokenBatch some_texts(bool left = false) {
  models::TokenBatch texts{Tensor::from({5, 6, 7, 8, 9, 0, 11, 0, 0}, {3, 3}), {}};
  texts.valid = Tensor::from(std::vector<bool>{true, true, true, true, true, false, true, false, false}, {3, 3});
  if (left) {
    texts.ids = Tensor::from({5, 6, 7, 0, 8, 9, 0, 0, 11}, {3, 3});
    texts.valid = Tensor::from(std::vector<bool>{true, true, true, false, true, true, false, false, true}, {3, 3});
  }
  return texts;
}

inline Tensor encoded(const models::Pretrained& model, const models::TokenBatch& texts) {
  const NoRecording off;
  return model.encode(texts).value();
}

}  // namespace tapecache::testing
