#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>

#include "tapecache/autograd/variable.h"

#pragma GCC visibility push(hidden)

namespace tapecache::gradcache::detail {

/// Of the bits of its elements; of a tensor on a device by way of the host.
std::int64_t digest_of_bits(const Tensor& values);

/// The parameters whose values a group has compared, each as it was in the group's last step.
class ComparedWeights {
 public:
  static constexpr std::int64_t kNew = -1;

  /// How often each has been changed since then, as one number: ranks that train alike change them equally often. kNew
  /// where one was never compared.
  std::int64_t changes(std::span<const Parameter> parameters) const;
  void note(std::span<const Parameter> parameters);

 private:
  std::map<std::weak_ptr<const tapecache::detail::Storage>, std::uint64_t, std::owner_less<>> versions_;
};

}  // namespace tapecache::gradcache::detail

#pragma GCC visibility pop
