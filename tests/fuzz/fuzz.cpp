// libFuzzer's program for every target: TAPECACHE_FUZZ names one. With --seeds FOLDER it writes that target's seeds
// there.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <string_view>

#include "folder.h"
#include "targets.h"

namespace {

const tapecache::testing::FuzzTarget* target = nullptr;

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* count, char*** arguments) {
  const char* name = std::getenv("TAPECACHE_FUZZ");
  try {
    target = &tapecache::testing::fuzz_target(name ? name : "");
    if (*count == 3 && std::string_view((*arguments)[1]) == "--seeds") {
      int number = 0;
      for (const std::string& seed : target->seeds()) {
        tapecache::testing::put(std::filesystem::path((*arguments)[2]) / ("seed" + std::to_string(number++)), seed);
      }
      std::exit(0);
    }
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    std::exit(2);
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  target->run({reinterpret_cast<const char*>(bytes), size});
  return 0;
}
