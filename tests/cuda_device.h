#pragma once

#include <boost/test/unit_test.hpp>

#include <cstdio>
#include <string>

#include "tapecache/core/device.h"

namespace tapecache::testing {

/// The device under test.
inline const Device kCuda = Device::cuda();

/// What a precondition gives for a test that is skipped, which is named.
inline boost::test_tools::assertion_result skip(boost::unit_test::test_unit_id id, const std::string& reason) {
  std::printf("skipped: %s: %s\n", boost::unit_test::framework::get(id, boost::unit_test::TUT_ANY).full_name().c_str(),
              reason.c_str());
  boost::test_tools::assertion_result skipped(false);
  skipped.message() << reason;
  return skipped;
}

/// The precondition of a test that needs the device.
inline boost::test_tools::assertion_result needs_device(boost::unit_test::test_unit_id id) {
  if (cuda_device_count() > 0) return true;
  return skip(id, "there is no CUDA device");
}

/// For BOOST_AUTO_TEST_CASE(name, *on_device).
inline const auto on_device = boost::unit_test::precondition(needs_device);

}  // namespace tapecache::testing
