// What check_saved.py and check_minilm.py run of this library:
//   reference_model save FOLDER OTHER [pooler]   the folder's model, loaded and saved
//   reference_model lora FOLDER ADAPTER OTHER    the folder's model, adapted, saved as OTHER/adapter and OTHER/merged
//   reference_model embed FOLDER IDS OUT         ids and valid of a safetensors file, encoded

#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "tapecache/core/files.h"
#include "tapecache/models/lora.h"
#include "tapecache/models/pretrained.h"

using namespace tapecache;

int main(int count, char** values) try {
  const std::vector<std::string> arguments(values + 1, values + count);
  if (arguments.size() >= 3 && arguments[0] == "save") {
    const models::PretrainedOptions options{.pooler = arguments.size() > 3 && arguments[3] == "pooler"};
    save_pretrained(arguments[2], models::load_pretrained(arguments[1], options));
    return 0;
  }
  if (arguments.size() == 4 && arguments[0] == "lora") {
    const models::Pretrained model = models::load_pretrained(arguments[1]);
    const models::Lora lora = models::load_lora(arguments[2], model);
    models::save_lora(arguments[3] + "/adapter", lora, arguments[1]);
    lora.merge();
    save_pretrained(arguments[3] + "/merged", model);
    return 0;
  }
  if (arguments.size() == 4 && arguments[0] == "embed") {
    const models::Pretrained model = models::load_pretrained(arguments[1]);
    const SafetensorsFile file = read_safetensors(arguments[2]);
    const Variable z = model.encode({file.tensors.at("ids"), file.tensors.at("valid")});
    write_safetensors(arguments[3], {{{"embeddings", z.value()}}});
    return 0;
  }
  std::fputs("usage: reference_model save FOLDER OTHER [pooler] | lora FOLDER ADAPTER OTHER | embed FOLDER IDS OUT\n",
             stderr);
  return 2;
} catch (const std::exception& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
