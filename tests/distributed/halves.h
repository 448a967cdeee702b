#pragma once

#include <vector>

#include "gradcache_checks.h"
#include "ranks.h"

namespace tapecache::testing {

/// The towers of the first or the second of two ranks, with four of a setup's eight samples.
inline std::vector<Tower> halves(const Communicator& ranks, const ClipSetup& setup) {
  const Slice slice(ranks.rank(), {{4, 4}});
  return {{"image", slice(0, setup.images), setup.image}, {"text", slice(1, setup.texts), setup.text}};
}

}  // namespace tapecache::testing
