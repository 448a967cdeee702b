#include "tapecache/ops/cpu/cpu_kernels.h"
#include "tapecache/ops/cpu/variant.h"

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

constexpr KernelTable kTable = table_of<Provided>(KernelTable());

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512CD__) && defined(__AVX512DQ__) && \
    defined(__AVX512VL__)
constexpr bool kAvx512 = true;
#else
constexpr bool kAvx512 = false;
#endif
#if defined(__AVX2__) && defined(__FMA__) && defined(__BMI2__)
constexpr bool kAvx2 = true;
#else
constexpr bool kAvx2 = false;
#endif
#if defined(__SSE4_2__)
constexpr bool kSse42 = true;
#else
constexpr bool kSse42 = false;
#endif

}  // namespace

extern const Variant kVariant;
const Variant kVariant{TAPECACHE_CPU_NAME, {kSse42, kAvx2, kAvx512}, &kTable};

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
