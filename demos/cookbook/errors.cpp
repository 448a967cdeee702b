#include <cstdio>
#include <thread>

#include <tapecache/tapecache.h>

using namespace tapecache;

int main() {
  models::Builder builder(/*seed=*/1);
  const models::Linear layer(builder.child("layer"), 64, 32, models::Init::normal(0.1));
  const Variable x = Tensor::zeros({512, 64});

  // Every error is a tapecache::Error, and says what, where, found and expected.
  try {
    layer(Tensor::zeros({512, 63}));
  } catch (const ShapeError& error) {
    std::printf("%s\n", error.what());
  }

  // Memory is counted and can be limited; after OutOfMemory all goes on.
  try {
    const MemoryLimit limit(Device::cpu().memory_stats().current + 100'000);
    for (Variable y = x;;) y = ops::concat({y, y});
  } catch (const OutOfMemory& error) {
    std::printf("%zu bytes were too many\n", error.requested());
  }

  // NaN is looked for where asked.
  try {
    const AnomalyMode anomaly;
    ops::log(ops::scale(x, 0.0));
  } catch (const NumericalError& error) {
    std::printf("%s\n", error.what());
  }

  // Tape, random state, autocast and the like belong to a thread; models may be read by any number of them.
  Tensor results[2];
  std::thread other([&] { results[0] = layer(x).value(); });
  results[1] = layer(x).value();
  other.join();
  std::printf("both threads: %s\n",
              results[0].to_vector<float>() == results[1].to_vector<float>() ? "equal" : "different");
}
