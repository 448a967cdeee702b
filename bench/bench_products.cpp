#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "onednn_product.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/ops/kernels/table.h"
#include "timing.h"

// The products of training steps in f32 and bf16, ours in turn with oneDNN's where it was found.

using namespace tapecache;

namespace {

struct Product {
  std::string of;
  std::int64_t m, n, k;
  bool transpose_a = false, transpose_b = false;
};

/// A linear op of `rows` rows, and what its backward multiplies.
void add_linear(std::vector<Product>& products, const std::string& of, std::int64_t rows, std::int64_t out,
                std::int64_t in) {
  products.push_back({of, rows, out, in, false, true});
  products.push_back({of + ", gradient of x", rows, in, out});
  products.push_back({of + ", of weight", out, in, rows, true});
}

std::vector<Product> all_products() {
  std::vector<Product> products{{"1024³", 1024, 1024, 1024}};
  struct Model {
    const char* name;
    std::int64_t rows, width;
  };
  for (const Model& m : {Model{"ViT-B/32 B=64", 3200, 768}, {"ViT-Ti/4 B=64", 4160, 192}}) {
    const std::string name = m.name;
    add_linear(products, name + " out", m.rows, m.width, m.width);
    add_linear(products, name + " qkv", m.rows, 3 * m.width, m.width);
    add_linear(products, name + " up", m.rows, 4 * m.width, m.width);
    add_linear(products, name + " down", m.rows, m.width, 4 * m.width);
  }
  return products;
}

template <class T>
std::vector<T> values(std::int64_t count) {
  std::vector<T> result(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < result.size(); ++i) result[i] = T(static_cast<float>(i * 2654435761u % 1021) / 510 - 1);
  return result;
}

/// Prints a row; the ratio of oneDNN's time to ours, 1 where it cannot.
template <class T>
double measure(const Product& p, int rounds) {
  const std::vector<T> a = values<T>(p.m * p.k), b = values<T>(p.k * p.n);
  std::vector<float> ours(static_cast<std::size_t>(p.m * p.n)), theirs(ours.size());
  kernels::Gemm gemm;
  gemm.m = p.m;
  gemm.n = p.n;
  gemm.k = p.k;
  gemm.transpose_a = p.transpose_a;
  gemm.transpose_b = p.transpose_b;
  const double flops = 2.0 * static_cast<double>(p.m * p.n * p.k);
  // Several times in a row, so that a small product does not measure the clock.
  const int repeats = 1 + static_cast<int>(2e9 / flops);
  std::vector<std::function<void()>> runs{[&] {
    for (int i = 0; i < repeats; ++i) {
      const auto& products = *std::get<const kernels::GemmKernels<T>*>(kernels::cpu_table());
      products.gemm(gemm, a.data(), b.data(), nullptr, nullptr, ours.data(), kernels::Mode::kWrite);
    }
  }};
  bench::OneDnnProduct other(p.m, p.n, p.k, p.transpose_a, p.transpose_b, thread_count());
  const bool both = bench::kHasOneDnn && (sizeof(T) == 4 || other.has_bf16());
  if (both) {
    runs.push_back([&] {
      for (int i = 0; i < repeats; ++i) other.run(a.data(), b.data(), theirs.data());
    });
  }
  const Timings timings = time_in_turn(runs, rounds);
  const auto rate = [&](std::size_t run) { return 1e-9 * flops * repeats / timings.seconds(run); };
  const double ratio = both ? timings.ratio(1, 0) : 1;
  double worst = 0;
  for (std::size_t i = 0; both && i < ours.size(); ++i) {
    const double difference = std::abs(static_cast<double>(ours[i]) - static_cast<double>(theirs[i]));
    if (!(difference <= worst)) worst = difference;
  }
  fmt::print("{:<32} {:>5} {:>5} {:>5}  {:<4} {:>7} {:>10.1f} ", p.of, p.m, p.n, p.k, sizeof(T) == 2 ? "bf16" : "f32",
             thread_count(), rate(0));
  if (both) fmt::print("{:>10.1f} {:>7.3f} {:>9.1e}\n", rate(1), ratio, worst);
  else fmt::print("{:>10} {:>7} {:>9}\n", "-", "-", "-");
  return ratio;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Products of training steps, ours beside oneDNN's");
  int rounds = 7;
  double check = 0;
  std::vector<int> threads{1, 2};
  std::string only;
  app.add_option("--rounds", rounds, "Measured rounds of each")->check(CLI::PositiveNumber);
  app.add_option("--threads", threads, "Numbers of threads");
  app.add_option("--only", only, "Those whose name holds this");
  app.add_option("--check", check, "Fail where our speed is less than this share of oneDNN's");
  CLI11_PARSE(app, argc, argv);
  if (check > 0 && !bench::kHasOneDnn) {
    fmt::print(stderr, "--check: this was built without oneDNN; install it and configure with -Donednn=enabled\n");
    return 2;
  }
  fmt::print("{:<32} {:>5} {:>5} {:>5}  {:<4} {:>7} {:>10} {:>10} {:>7} {:>9}\n", "product", "m", "n", "k", "type",
             "threads", "GFLOP/s", "oneDNN", "ratio", "differ");
  int slower = 0;
  for (const Product& product : all_products()) {
    if (product.of.find(only) == std::string::npos) continue;
    for (const int count : threads) {
      set_thread_count(count);
      slower += measure<float>(product, rounds) < check;
      slower += measure<BFloat16>(product, rounds) < check;
    }
  }
  if (check > 0) fmt::print("{} of the ratios are below {}\n", slower, check);
  return slower > 0 ? 1 : 0;
}
