#pragma once

#include <boost/test/unit_test.hpp>

#include <string>

#include "tapecache/core/device.h"

/// The device under test. A case that is marked `*on_device` and puts its tensors on kDevice is the same on the CPU and
/// on a CUDA device: the program of its module runs it on the CPU, and test_cuda, which links the same object, on CUDA.
namespace tapecache::testing {

/// The CPU, or in the programs of tests/cuda the first CUDA device.
extern const Device kDevice;

/// What a precondition gives for a test that is skipped, which is named.
boost::test_tools::assertion_result skip(boost::unit_test::test_unit_id id, const std::string& reason);

/// Has a test skipped where kDevice is not there, and what it left to the device fail within the test itself.
void put_on_device(boost::unit_test::test_unit& test);

class OnDevice : public boost::unit_test::decorator::base {
  void apply(boost::unit_test::test_unit& test) override { put_on_device(test); }
  boost::unit_test::decorator::base_ptr clone() const override {
    return boost::unit_test::decorator::base_ptr(new OnDevice);
  }
};

/// For BOOST_AUTO_TEST_CASE(name, *on_device).
inline const OnDevice on_device;

}  // namespace tapecache::testing
