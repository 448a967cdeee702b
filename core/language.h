#pragma once

// Included before anything that an older C++ does not have, and the end there: what follows would be hundreds of
// errors.
#if __cplusplus < 202002L
#error "Tapecache needs C++20: compile with -std=c++20 or newer (Meson: cpp_std=c++20, CMake: the feature cxx_std_20)"
#include <tapecache needs -std=c++20>
#endif
