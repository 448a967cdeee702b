#include "tapecache/core/forward_context.h"

namespace tapecache {

ForwardContext& forward_context() {
  thread_local ForwardContext context;
  return context;
}

RandomState& random_state() { return forward_context().random; }

}  // namespace tapecache
