#include "cuda_device.h"
#include "low_precision_checks.h"

using namespace tapecache;
using namespace tapecache::testing;

BOOST_AUTO_TEST_SUITE(cuda_low_precision)

BOOST_AUTO_TEST_CASE(a_block_in_bf16, *on_device) { check_low_block(kCuda, DType::kBFloat16); }
BOOST_AUTO_TEST_CASE(a_block_in_f16, *on_device) { check_low_block(kCuda, DType::kFloat16); }
BOOST_AUTO_TEST_CASE(a_gated_block_in_bf16, *on_device) { check_low_gated_block(kCuda, DType::kBFloat16); }
BOOST_AUTO_TEST_CASE(a_gated_block_in_f16, *on_device) { check_low_gated_block(kCuda, DType::kFloat16); }
BOOST_AUTO_TEST_CASE(several_readers_in_bf16, *on_device) { check_low_readers(kCuda, DType::kBFloat16); }
BOOST_AUTO_TEST_CASE(several_readers_in_f16, *on_device) { check_low_readers(kCuda, DType::kFloat16); }
BOOST_AUTO_TEST_CASE(large_products_in_bf16, *on_device) { check_low_large_product(kCuda, DType::kBFloat16); }
BOOST_AUTO_TEST_CASE(large_products_in_f16, *on_device) { check_low_large_product(kCuda, DType::kFloat16); }

BOOST_AUTO_TEST_SUITE_END()
