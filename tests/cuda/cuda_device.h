#pragma once

#include <cstdio>
#include <exception>
#include <string>

#include <boost/make_shared.hpp>
#include <boost/test/unit_test.hpp>

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

/// What a device is given is queued: that a test's kernel failed must not be found in a later one.
class WaitsForItsDevice : public boost::unit_test::test_unit_fixture {
  void setup() override {}
  void teardown() override {
    try {
      synchronize(kCuda);
    } catch (const std::exception& e) {
      BOOST_ERROR("left to the device: " << e.what());
    }
  }
};

/// Makes a test one that needs the device.
inline void put_on_device(boost::unit_test::test_unit& test) {
  test.add_precondition(needs_device);
  test.p_fixtures.value.push_back(boost::make_shared<WaitsForItsDevice>());
}

class OnDevice : public boost::unit_test::decorator::base {
  void apply(boost::unit_test::test_unit& test) override { put_on_device(test); }
  boost::unit_test::decorator::base_ptr clone() const override {
    return boost::unit_test::decorator::base_ptr(new OnDevice);
  }
};

/// For BOOST_AUTO_TEST_CASE(name, *on_device).
inline const OnDevice on_device;

}  // namespace tapecache::testing
