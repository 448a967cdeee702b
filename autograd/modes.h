#pragma once

#include <memory>
#include <optional>

#include "tapecache/core/dtype.h"
#include "tapecache/core/forward_context.h"
#include "tapecache/core/tensor.h"

namespace tapecache {

namespace detail {
class OperandCache;
}

/// Mixed precision for a scope (Micikevicius et al. 2018): with kBFloat16 or kFloat16 the linear ops, matmul, attention
/// and patch_embedding round their f32 operands to that type and add in f32. Attention also rounds its weights, whose
/// sums and maxima stay in f32, and its result; activated_linear rounds x and again activation(x). Results that are
/// asked for as ResultType::kOperand are rounded too, and so are their gradients. Other results, weights and all other
/// ops stay in f32, and f64 is left alone. Tensors for backward are saved in 16 bits, and backward computes as the
/// forward was recorded, wherever it runs. kFloat32 turns autocast off for a scope.
///
/// A parameter that is used more than once is rounded once, until it changes: the rounded copies are kept until the end
/// of the outermost scope.
///
/// f16 has three more bits than bf16, and gradients that are below 6e-8 or above 65504 are lost in it: it needs a loss
/// scale (`train::LossScaler`).
class [[nodiscard]] Autocast : public detail::OfOneScope {
 public:
  /// Throws DTypeError for any other type.
  explicit Autocast(DType dtype);
  ~Autocast();

  /// The type in which matrix products of this thread take their f32 operands: kFloat32, or that of the `Autocast` in
  /// force.
  static DType current() { return forward_context().autocast; }

 private:
  ScopedValue<DType> dtype_;
  std::unique_ptr<detail::OperandCache> operands_;
  std::optional<ScopedValue<detail::OperandCache*>> operands_in_use_;
};

/// For a scope, every operation of this thread checks its outputs and, in backward, the gradients that it gives. The
/// first operation with a NaN or Inf throws NumericalError naming it; a parameter whose gradient held one before the
/// pass is named itself. This is slow, and meant for finding where a run goes wrong.
class [[nodiscard]] AnomalyMode : ScopedValue<bool> {
 public:
  explicit AnomalyMode(bool on = true) : ScopedValue(forward_context().anomaly_mode, on) {}

  static bool enabled() { return forward_context().anomaly_mode; }
};

namespace detail {
/// Throws NumericalError "anomaly: <what> of '<op>' …" where the tensor holds a NaN or Inf.
void check_anomaly(const char* op, const char* what, const Tensor& tensor);
}  // namespace detail

}  // namespace tapecache
