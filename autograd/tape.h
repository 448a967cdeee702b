#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tapecache/autograd/backward.h"
#include "tapecache/autograd/variable.h"
#include "tapecache/core/tensor.h"

namespace tapecache {

/// The record of a computation, in execution order; backward is one walk from its end. An explicit object, active
/// on a thread within a `Recording`; with no active tape nothing is recorded. Many may live at once. A tape is
/// consumed by its backward pass, which releases saved tensors and gradients as soon as each node has run.
class Tape {
 public:
  Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;
  ~Tape();

  /// The tape that operations of this thread record on, or nullptr.
  static Tape* active();

  /// A value on this tape that is no operation's output: `gradient(leaf)` gives its gradient after backward.
  Variable leaf(Tensor value);

  /// Backward from a scalar. Throws ShapeError where it is none, TapeError where it has no history here.
  void backward(const Variable& scalar);
  /// Backward from any number of outputs, seeded with the given gradients (same shapes and dtypes as the outputs).
  /// Parameters receive their gradients, hooks run. Throws TapeError on a second call; shapes are checked before
  /// anything runs.
  void backward(std::span<const Variable> outputs, std::span<const Tensor> seeds);

  /// A leaf's gradient; undefined where the outputs do not depend on it. Throws TapeError for anything else.
  Tensor gradient(const Variable& leaf) const;

  /// Whether the variable was recorded here.
  bool holds(const Variable& variable) const { return variable.tape_ == id_; }
  bool consumed() const { return consumed_; }
  const std::vector<Node>& nodes() const { return nodes_; }
  /// Drops all nodes and values without running them.
  void clear();
  /// With false, backward leaves the parameters' hooks to an outer pass that this one is part of.
  void set_run_hooks(bool on) { run_hooks_ = on; }

  /// Appends an operation where a tape is active and an input has history, and gives its outputs their place on the
  /// tape; else gives constants. Ops call `record` below.
  static std::vector<Variable> append(const char* op, std::vector<Tensor> outputs, std::span<const Variable> inputs,
                                      std::vector<Tensor> saved, std::function<void(Backward&)> derivative);

 private:
  friend class Backward;
  friend class Recording;

  struct Value {
    Shape shape;
    DType dtype;
    Device device;
    bool is_leaf;
    Tensor gradient;
  };

  void check_seeds(std::span<const Variable> outputs, std::span<const Tensor> seeds) const;
  void check_earlier_gradients() const;
  void seed(const Variable& output, const Tensor& gradient);
  void run(std::size_t index);
  std::int64_t add_value(const Tensor& tensor, bool is_leaf);

  std::uint64_t id_;
  std::shared_ptr<Tape*> self_;  // null once the tape has ended, for those who may outlive it
  bool consumed_ = false;
  bool run_hooks_ = true;
  std::vector<Node> nodes_;
  std::vector<Value> values_;
  std::unordered_map<const void*, std::size_t> first_use_;  // parameter -> first node that reads it
};

/// Makes a tape the active one of this thread for a scope. Afterwards the one before is active again, if it still lives.
class Recording {
 public:
  explicit Recording(Tape& tape);
  ~Recording();
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

 protected:
  explicit Recording(Tape* tape);

 private:
  std::shared_ptr<Tape*> previous_;
};

/// Leaves no tape active for a scope.
class NoRecording : public Recording {
 public:
  NoRecording() : Recording(nullptr) {}
};

/// Collects, for a scope, the parameters that operations read while no tape is active.
class ParametersRead {
 public:
  ParametersRead();
  ~ParametersRead();
  ParametersRead(const ParametersRead&) = delete;
  ParametersRead& operator=(const ParametersRead&) = delete;

  /// Each of them once, in the order of first use.
  std::vector<Parameter> all() const;
  /// The same without those that are frozen.
  std::vector<Parameter> distinct() const;

 private:
  std::vector<Parameter> seen_;
  std::vector<Parameter>* previous_;
};

/// Records an operation. The derivative may capture plain numbers only: tensors go to `saved`, where they can be seen and
/// released.
template <class Derivative>
std::vector<Variable> record(const char* op, std::vector<Tensor> outputs, std::span<const Variable> inputs,
                             std::vector<Tensor> saved, Derivative derivative) {
  static_assert(std::is_trivially_copyable_v<Derivative>, "a derivative captures numbers; tensors belong in `saved`");
  return Tape::append(op, std::move(outputs), inputs, std::move(saved), std::move(derivative));
}

/// The same for one output.
template <class Derivative>
Variable record(const char* op, Tensor output, std::span<const Variable> inputs, std::vector<Tensor> saved,
                Derivative derivative) {
  return record(op, std::vector<Tensor>{std::move(output)}, inputs, std::move(saved), std::move(derivative)).front();
}

/// The same for a number of inputs known when it is compiled.
template <class Derivative>
Variable record(const char* op, Tensor output, std::initializer_list<Variable> inputs, std::vector<Tensor> saved,
                Derivative derivative) {
  return record(op, std::move(output), std::span(inputs.begin(), inputs.size()), std::move(saved), std::move(derivative));
}

/// Whether an op over these inputs would be recorded, so that what only the derivative needs can be left out.
bool will_record(std::initializer_list<Variable> inputs);

/// Runs backward on `tape` from any number of outputs, seeded with the given gradients: the hook that gradient
/// caching injects cached gradients through.
inline void inject(Tape& tape, std::span<const Variable> outputs, std::span<const Tensor> gradients) {
  tape.backward(outputs, gradients);
}

}  // namespace tapecache
