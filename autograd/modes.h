#pragma once

#include <memory>
#include <optional>

#include "tapecache/core/dtype.h"
#include "tapecache/core/forward_context.h"
#include "tapecache/core/tensor.h"

namespace tapecache {

class OperandCache;

/// The precision that matrix products of this thread take their f32 operands in: kFloat32, or kBFloat16 or kFloat16
/// within an `Autocast`.
inline DType autocast_dtype() { return forward_context().autocast; }

/// Mixed precision for a scope (Micikevicius et al. 2018): with kBFloat16 or kFloat16 the linear ops, matmul, attention
/// and patch_embedding round their f32 operands to that type and add in f32. So does attention with its weights, whose
/// sums and maxima stay in f32, and with its result, and activated_linear with x and again with activation(x). Results
/// that are asked for as ResultType::kOperand are rounded too, and with them their gradients; other results, weights
/// and all other ops stay in f32; f64 is left alone. What backward needs is kept in 16 bits, and backward works as was
/// recorded, wherever it runs. kFloat32 turns it off for a scope.
///
/// A parameter that is used more than once is rounded once, until it changes: its copies are kept for the length of the
/// scope, in an `OperandCache` of the outermost one where none is in force already.
///
/// f16 has three more bits than bf16, and gradients that are below 6e-8 or above 65504 are lost in it: it needs a loss
/// scale (`train::LossScaler`).
class [[nodiscard]] Autocast : public detail::OfOneScope {
 public:
  /// Throws DTypeError for any other type.
  explicit Autocast(DType dtype);
  ~Autocast();

 private:
  ScopedValue<DType> dtype_;
  std::unique_ptr<OperandCache> operands_;
  std::optional<ScopedValue<OperandCache*>> operands_in_use_;
};

/// For a scope, every operation of this thread checks its outputs, and in backward the gradients it gives; the first
/// that holds a NaN or Inf throws NumericalError naming it. A parameter whose gradient held one before the pass is
/// named itself. Slow; for finding where a run goes wrong.
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
