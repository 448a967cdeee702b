#define BOOST_TEST_MODULE tapecache
#include <boost/test/unit_test.hpp>

// Tests ask for more memory than there is and expect an exception, where the address sanitizer would end the program.
extern "C" const char* __asan_default_options() { return "allocator_may_return_null=1"; }
