// A plugin that the library is linked into.
#include <tapecache/tapecache.h>

using namespace tapecache;

extern "C" int work() {
  set_thread_count(3);
  models::Builder builder(1);
  const models::Linear layer(builder.child("layer"), 256, 128, models::Init::normal(0.1));
  Tape tape;
  Variable loss;
  {
    const Recording recording(tape);
    loss = ops::mean(ops::l2_normalize(layer(Tensor::full({512, 256}, 0.5))));
  }
  tape.backward(loss);
  return static_cast<int>(builder.parameters().size());
}
