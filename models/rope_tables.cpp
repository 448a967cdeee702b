#include "tapecache/models/rope_tables.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "tapecache/ops/attention.h"

namespace tapecache::models::detail {

std::vector<double> RopeTables::frequencies(double base, std::int64_t width) {
  std::vector<double> all;
  for (std::int64_t i = 0; i < width / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(width);
    all.push_back(1.0F / static_cast<float>(std::pow(base, static_cast<double>(exponent))));
  }
  return all;
}

RopeTables::RopeTables(std::vector<double> frequencies, std::string name) : shared_(std::make_shared<Shared>()) {
  shared_->frequencies = std::move(frequencies);
  shared_->name = std::move(name);
}

Tensor RopeTables::table(std::int64_t positions, DType dtype, Device device) const {
  constexpr std::int64_t kLeast = 64;
  const std::scoped_lock lock(shared_->mutex);
  Tensor& table = shared_->tables[{device.is_cpu() ? -1 : device.index, dtype}];
  if (!table.defined() || table.size(0) < positions) {
    // Twofold, so that texts that get longer one by one make few; a row's values do not depend on their number.
    const auto room = static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(std::max(kLeast, positions))));
    table = ops::rope_table(shared_->frequencies, room, dtype).to(device);
  }
  return table;
}

}  // namespace tapecache::models::detail
