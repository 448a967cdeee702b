#pragma once

// Included before anything that an older language does not have, and the end of it there: what follows would be hundreds of errors.
#if __cplusplus < 202002L
#error "Tapecache needs C++20: compile with -std=c++20 or newer (CMake: target_compile_features(... cxx_std_20), Meson: cpp_std=c++20)"
#include "tapecache needs -std=c++20"
#endif
