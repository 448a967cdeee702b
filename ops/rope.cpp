#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "tapecache/core/element.h"
#include "tapecache/core/op_scope.h"
#include "tapecache/ops/attention.h"
#include "tapecache/ops/call.h"
#include "tapecache/ops/checks.h"
#include "tapecache/ops/low_precision.h"

namespace tapecache::ops {

using kernels::RopeKernels;

namespace {

void check_rope(const char* op, const Variable& x, std::int64_t heads, const Tensor& table) {
  detail::require_operand(op, "x", x, 3);
  const DType computed = detail::computed_type(x.dtype());
  if (!table.defined()) throw ValueError(fmt::format("{}: table is undefined", op));
  if (table.dtype() != computed) {
    throw DTypeError(fmt::format("{}: table is {}, expected {}", op, name(table.dtype()), name(computed)));
  }
  if (table.device() != x.device()) {
    throw DeviceError(fmt::format("{}: x is on {} and table on {}, expected one device", op, to_string(x.device()),
                                  to_string(table.device())));
  }
  if (table.rank() != 2 || table.size(0) < x.size(1) || table.size(1) < 2 || table.size(1) % 2 != 0) {
    throw ShapeError(fmt::format("{}: table has shape {}, expected [at least {} tokens, an even head width]", op,
                                 to_string(table.shape()), x.size(1)));
  }
  if (heads < 1) throw ValueError(fmt::format("{}: {} heads, expected at least 1", op, heads));
  if (x.rank() != 3 || x.size(2) % table.size(1) != 0 || x.size(2) / table.size(1) < heads) {
    throw ShapeError(
        fmt::format("{}: x has shape {}, expected [batch, tokens, features] with features a multiple of "
                    "the head width, {}, and at least {} heads",
                    op, to_string(x.shape()), table.size(1), heads));
  }
}

}  // namespace

Variable rope(const Variable& x, std::int64_t heads, const Tensor& table) {
  constexpr const char* kOp = "rope";
  const OpScope scope(kOp);
  check_rope(kOp, x, heads, table);
  const DType dtype = x.dtype();
  const std::int64_t width = table.size(1);
  const kernels::Rope layout{x.size(0), x.size(1), heads, x.size(2) / width - heads, width};
  Tensor y = Tensor::empty(x.shape(), dtype, x.device());
  dispatch_any_floating(kOp, dtype, [&]<class T>() {
    detail::call(kOp, x.device(), &RopeKernels<T>::rope, layout, false, x, table, y, kernels::Mode::kWrite);
  });
  return record(kOp, std::move(y), {x}, {table}, [=](Backward& ctx) {
    // dx is dy, rotated back
    const Tensor dy = detail::in_type(kOp, ctx.output_gradient(), dtype);
    detail::write_gradient(ctx.gradient(0), dtype, [&](Tensor& dx, kernels::Mode mode) {
      dispatch_any_floating(kOp, dtype, [&]<class T>() {
        detail::call(kOp, dy.device(), &RopeKernels<T>::rope, layout, true, dy, ctx.saved(0), dx, mode);
      });
    });
  });
}

Tensor rope_table(std::span<const double> frequencies, std::int64_t positions, DType dtype) {
  if (frequencies.empty() || positions < 1) {
    throw ValueError(
        fmt::format("rope_table: {} frequencies and {} positions, expected at least 1", frequencies.size(), positions));
  }
  const auto half = static_cast<std::int64_t>(frequencies.size());
  Tensor table = Tensor::empty({positions, 2 * half}, dtype);
  dispatch_floating("rope_table", dtype, [&]<class T>() {
    T* row = table.mutable_data<T>();
    for (std::int64_t position = 0; position < positions; ++position, row += 2 * half) {
      for (std::int64_t i = 0; i < half; ++i) {
        const double angle =
            static_cast<float>(position) * static_cast<float>(frequencies[static_cast<std::size_t>(i)]);
        row[i] = static_cast<T>(std::cos(angle));
        row[half + i] = static_cast<T>(std::sin(angle));
      }
    }
  });
  return table;
}

}  // namespace tapecache::ops
