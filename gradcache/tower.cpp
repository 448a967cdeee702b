#include "tapecache/gradcache/tower.h"

#include <fmt/format.h>

#include "tapecache/core/random.h"

namespace tapecache::gradcache {

namespace {

/// Shows the encoder which samples it sees; the stream itself goes on.
class SampleWindow {
 public:
  SampleWindow(std::int64_t begin, std::int64_t samples)
      : first_sample_(random_state().first_sample), samples_(random_state().samples) {
    random_state().first_sample += begin;
    random_state().samples = samples;
  }
  ~SampleWindow() {
    random_state().first_sample = first_sample_;
    random_state().samples = samples_;
  }
  SampleWindow(const SampleWindow&) = delete;
  SampleWindow& operator=(const SampleWindow&) = delete;

 private:
  std::int64_t first_sample_, samples_;
};

}  // namespace

Variable Tower::encode(std::int64_t begin, std::int64_t end) const {
  const SampleWindow window(begin, end - begin);
  const Variable representations = encode_(begin, end);
  if (!representations.defined() || representations.rank() == 0 || representations.size(0) != end - begin) {
    throw ShapeError(fmt::format("tower '{}': the encoder returned {} for samples [{}, {}), expected {} rows", name_,
                                 describe(representations.value()), begin, end, end - begin));
  }
  if (representations.dtype() != DType::kFloat32 && representations.dtype() != DType::kFloat64) {
    throw DTypeError(fmt::format("tower '{}': the encoder returned {}, expected float32 or float64", name_,
                                 describe(representations.value())));
  }
  return representations;
}

}  // namespace tapecache::gradcache
