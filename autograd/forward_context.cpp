#include "tapecache/autograd/forward_context.h"

namespace tapecache {

ForwardContext& forward_context() {
  thread_local ForwardContext context;
  return context;
}

}  // namespace tapecache
