// A program whose calls need fmt and nlohmann-json within the library.
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include <tapecache/tapecache.h>

using namespace tapecache;

int main() {
  int wrong = 0;
  try {
    ops::matmul(Variable(Tensor::full({2, 3}, 1)), Variable(Tensor::full({2, 3}, 1)));
    ++wrong;
  } catch (const ShapeError& error) {
    if (std::string(error.what()).find("[2, 3]") == std::string::npos) ++wrong;
  }
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("tapecache_formats_" + std::to_string(getpid()) + ".safetensors");
  write_safetensors(path, {.tensors = {{"weight", Tensor::full({2, 3}, 0.5)}}, .metadata = {{"note", "\"ü\"\n"}}});
  const SafetensorsFile found = read_safetensors(path);
  std::filesystem::remove(path);
  if (found.tensors.at("weight").to_vector<float>() != std::vector<float>(6, 0.5f)) ++wrong;
  if (found.metadata.at("note") != "\"ü\"\n") ++wrong;
  if (wrong != 0) std::printf("%d answers are wrong\n", wrong);
  return wrong;
}
