#pragma once

#include "tapecache/ops/equal_targets.h"

namespace tapecache::gradcache {

using ops::EqualTargets;

}  // namespace tapecache::gradcache
