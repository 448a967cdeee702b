#include "tapecache/core/stay_loaded.h"

#if defined(__linux__)
#include <dlfcn.h>
#include <link.h>
#endif

namespace tapecache::detail {

#if defined(__GLIBC__)

// Weak, since a program that is linked statically has none, and its linker warns of one.
extern "C" {
[[gnu::weak]] decltype(dlopen) dlopen;
[[gnu::weak]] decltype(dladdr1) dladdr1;
}

bool stay_loaded() {
  if (!&dlopen || !&dladdr1) return false;
  Dl_info info;
  void* found = nullptr;
  if (!dladdr1(reinterpret_cast<void*>(&stay_loaded), &info, &found, RTLD_DL_LINKMAP) || !found) return false;
  const char* const name = static_cast<const link_map*>(found)->l_name;
  // That of the program itself is empty.
  return name && *name && dlopen(name, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE) != nullptr;
}

#else

bool stay_loaded() { return false; }

#endif

}  // namespace tapecache::detail
