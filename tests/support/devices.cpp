#include "devices.h"

#include <cstdio>
#include <exception>

#include <boost/make_shared.hpp>

namespace tapecache::testing {

namespace {

boost::test_tools::assertion_result needs_device(boost::unit_test::test_unit_id id) {
  if (kDevice.is_cpu() || Device::cuda_count() > 0) return true;
  return skip(id, "there is no CUDA device");
}

/// What a device is given is queued: that a test's kernel failed must not be found in a later one.
class WaitsForItsDevice : public boost::unit_test::test_unit_fixture {
  void setup() override {}
  void teardown() override {
    try {
      kDevice.synchronize();
    } catch (const std::exception& e) {
      BOOST_ERROR("left to the device: " << e.what());
    }
  }
};

}  // namespace

boost::test_tools::assertion_result skip(boost::unit_test::test_unit_id id, const std::string& reason) {
  std::printf("skipped: %s: %s\n", boost::unit_test::framework::get(id, boost::unit_test::TUT_ANY).full_name().c_str(),
              reason.c_str());
  boost::test_tools::assertion_result skipped(false);
  skipped.message() << reason;
  return skipped;
}

void put_on_device(boost::unit_test::test_unit& test) {
  test.add_precondition(needs_device);
  test.p_fixtures.value.push_back(boost::make_shared<WaitsForItsDevice>());
}

}  // namespace tapecache::testing
