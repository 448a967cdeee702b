#include <algorithm>
#include <cstdio>
#include <vector>

#include <tapecache/tapecache.h>

using namespace tapecache;

/// y = max(x, 0)², on the CPU.
Variable squared_relu(const Variable& x) {
  Tensor y = Tensor::empty(x.shape(), x.dtype());
  dispatch_floating("squared_relu", x.dtype(), [&]<class T>() {
    const T* from = x.value().data<T>();
    T* to = y.mutable_data<T>();
    parallel_for(x.numel(), 16384, [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) to[i] = std::max(from[i], T{0}) * std::max(from[i], T{0});
    });
  });
  return record("squared_relu", y, {x}, {x.value()}, [](Backward& context) {
    // dx = 2 max(x, 0) dy
    const Tensor& dy = context.output_gradient();
    GradientTarget dx = context.gradient(0);
    dispatch_floating("squared_relu", dy.dtype(), [&]<class T>() {
      const T *at = context.saved(0).data<T>(), *from = dy.data<T>();
      T* to = dx.tensor.mutable_data<T>();
      parallel_for(dy.numel(), 16384, [=, adds = dx.accumulate](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          const T gradient = T{2} * std::max(at[i], T{0}) * from[i];
          to[i] = adds ? to[i] + gradient : gradient;
        }
      });
    });
  });
}

int main() {
  const std::vector<Tensor> inputs{Tensor::from({-1.0, -0.25, 0.5, 2.0}, {2, 2})};
  const GradcheckResult check = gradcheck([](auto x) { return squared_relu(x[0]); }, inputs);
  std::printf("gradcheck: %s\n", check.passed ? "passed" : check.message.c_str());

  Tape tape;
  const Variable x = tape.leaf(inputs[0]);
  Variable loss;
  {
    const Recording recording(tape);
    loss = ops::sum(squared_relu(x) * x + 1.0);  // ops of the library and one's own mix
  }
  tape.backward(loss);
  for (const double g : tape.gradient(x).to_vector<double>()) std::printf("%g ", g);
  std::printf("\n");
}
