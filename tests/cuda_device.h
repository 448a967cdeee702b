#pragma once

#include <boost/test/unit_test.hpp>

#include <cstdio>

#include "tapecache/core/device.h"

namespace tapecache::testing {

/// The device under test.
inline const Device kCuda = Device::cuda();

/// The precondition of a test that needs the device: without one the test is skipped, and named.
inline boost::test_tools::assertion_result needs_device(boost::unit_test::test_unit_id id) {
  if (cuda_device_count() > 0) return true;
  std::printf("skipped: %s: there is no CUDA device\n", boost::unit_test::framework::get(id, boost::unit_test::TUT_ANY)
                                                            .full_name()
                                                            .c_str());
  boost::test_tools::assertion_result skipped(false);
  skipped.message() << "there is no CUDA device";
  return skipped;
}

/// For BOOST_AUTO_TEST_CASE(name, *on_device).
inline const auto on_device = boost::unit_test::precondition(needs_device);

}  // namespace tapecache::testing
