#pragma once

#include <string>

#include "cuda_device.h"
#include "tapecache/ops/cuda/cudnn_attention.h"

namespace tapecache::testing {

/// The precondition of a test that needs cuDNN.
inline boost::test_tools::assertion_result needs_cudnn(boost::unit_test::test_unit_id id) {
  const std::string version = kernels::cuda::cudnn_version();
  if (!version.starts_with("none: ")) return true;
  return skip(id, "there is no cuDNN: " + version.substr(6));
}

/// For BOOST_AUTO_TEST_CASE(name, *with_cudnn).
inline const auto with_cudnn = boost::unit_test::precondition(needs_cudnn);

}  // namespace tapecache::testing
