#include "tapecache/ops/cpu/onednn.h"

#include <map>
#include <tuple>
#include <unordered_map>

#include <fmt/format.h>
#include <omp.h>
#include <oneapi/dnnl/dnnl.hpp>

#include "tapecache/ops/cpu/onednn_wish.h"

namespace tapecache::kernels::onednn {

namespace {

using Memory = dnnl::memory;

constexpr std::int64_t kWorthACall = 1 << 20;
constexpr std::size_t kMostProducts = 512;  // kept prepared by a thread

bool has_amx() {
  const auto isa = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
  constexpr auto kAmx = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_amx);
  return (isa & kAmx) == kAmx;
}

/// oneDNN built on OpenMP would start a team for each of our threads. The number of threads is a setting of the calling
/// thread alone; it is put back, so that the host program's own regions are as they were.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

/// Everything that a prepared product depends on.
using Key = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                       std::int64_t, bool, bool>;

struct Product {
  dnnl::matmul primitive;
  Memory a, b, c, bias;

  Product(std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& left, const Matrix& right, std::int64_t c_stride,
          bool accumulate, bool with_bias) {
    using Type = Memory::data_type;
    const Memory::desc a_desc({m, k}, Type::bf16, {left.row, left.column});
    const Memory::desc b_desc({k, n}, Type::bf16, {right.row, right.column});
    const Memory::desc c_desc({m, n}, Type::f32, {c_stride, 1});
    const Memory::desc bias_desc = with_bias ? Memory::desc({1, n}, Type::f32, {n, 1}) : Memory::desc();
    dnnl::primitive_attr attributes;
    if (accumulate) {
      dnnl::post_ops after;
      after.append_sum(1.0f);
      attributes.set_post_ops(after);
    }
#if DNNL_VERSION_MAJOR >= 3
    const dnnl::matmul::primitive_desc prepared(engine(), a_desc, b_desc, bias_desc, c_desc, attributes);
#else
    const dnnl::matmul::desc plan(a_desc, b_desc, bias_desc, c_desc);
    const dnnl::matmul::primitive_desc prepared(plan, attributes, engine());
#endif
    primitive = dnnl::matmul(prepared);
    a = Memory(a_desc, engine(), nullptr);
    b = Memory(b_desc, engine(), nullptr);
    c = Memory(c_desc, engine(), nullptr);
    if (with_bias) bias = Memory(bias_desc, engine(), nullptr);
  }
};

}  // namespace

bool takes(std::int64_t m, std::int64_t n, std::int64_t k) {
  static const Wish wished = wish();
  if (wished != Wish::kAuto) return wished == Wish::kAlways;
  static const bool amx = has_amx();
  return amx && m * n * k >= kWorthACall;
}

void multiply(std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& a, const Matrix& b, float* c,
              std::int64_t c_stride, bool accumulate, const float* bias) {
  try {
    thread_local std::map<Key, Product> products;
    thread_local dnnl::stream stream(engine());
    const OneThread one_thread;
    const Key key{m, n, k, a.row, a.column, b.row, b.column, c_stride, accumulate, bias != nullptr};
    auto found = products.find(key);
    if (found == products.end()) {
      if (products.size() >= kMostProducts) products.clear();
      found = products.try_emplace(key, m, n, k, a, b, c_stride, accumulate, bias != nullptr).first;
    }
    Product& product = found->second;
    product.a.set_data_handle(const_cast<BFloat16*>(a.data));
    product.b.set_data_handle(const_cast<BFloat16*>(b.data));
    product.c.set_data_handle(c);
    std::unordered_map<int, Memory> arguments{
        {DNNL_ARG_SRC, product.a}, {DNNL_ARG_WEIGHTS, product.b}, {DNNL_ARG_DST, product.c}};
    if (bias) {
      product.bias.set_data_handle(const_cast<float*>(bias));
      arguments.emplace(DNNL_ARG_BIAS, product.bias);
    }
    product.primitive.execute(stream, arguments);
    stream.wait();
  } catch (const dnnl::error& e) {
    throw DeviceError(fmt::format("bf16 product [{}, {}] times [{}, {}]: oneDNN says: {}", m, k, k, n, e.what()));
  }
}

}  // namespace tapecache::kernels::onednn
