#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <memory_resource>
#include <optional>
#include <span>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tapecache/autograd/backward.h"
#include "tapecache/autograd/variable.h"
#include "tapecache/core/scoped_value.h"
#include "tapecache/core/tensor.h"

namespace tapecache {

/// The inputs of an operation for the duration of a call, from a braced list (without copies) or an array.
class InputList {
 public:
  struct Item {
    Item(const Variable& v) : variable(&v) {}
    Item(const Parameter& parameter) : made(parameter), variable(&*made) {}
    Item(const Item&) = delete;
    Item& operator=(const Item&) = delete;

    std::optional<Variable> made;
    const Variable* variable;
  };

  InputList(std::initializer_list<Item> items) : items_(items), size_(items.size()) {}
  InputList(std::span<const Variable> variables) : variables_(variables.data()), size_(variables.size()) {}
  InputList(const std::vector<Variable>& variables) : InputList(std::span(variables)) {}

  std::size_t size() const { return size_; }
  const Variable& operator[](std::size_t i) const { return variables_ ? variables_[i] : *items_.begin()[i].variable; }

 private:
  std::initializer_list<Item> items_;
  const Variable* variables_ = nullptr;
  std::size_t size_;
};

/// Tensors to be saved for backward, for the duration of a call.
class SavedList : public std::span<const Tensor> {
 public:
  SavedList() = default;
  SavedList(std::initializer_list<Tensor> tensors) : span(std::data(tensors), tensors.size()) {}
  SavedList(const std::vector<Tensor>& tensors) : span(tensors) {}
};

/// Whether a backward pass runs the parameters' hooks, or leaves that to a caller that sums the gradients of several
/// passes.
enum class Hooks { kRun, kLeave };

/// The record of a computation in execution order; backward walks it from the end. A tape is an explicit object, which
/// a `Recording` makes active on a thread; without an active tape nothing is recorded. Any number of tapes may exist at
/// once. Backward consumes the tape: saved tensors and gradients are released as soon as each node has run.
class Tape {
 public:
  Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;
  ~Tape();

  /// The active tape of this thread, or nullptr.
  static Tape* active();

  /// Puts a tensor on this tape as a leaf, whose gradient `gradient(leaf)` returns after backward.
  Variable leaf(Tensor value);

  /// Runs backward from a scalar. Throws ShapeError if it is not a scalar, TapeError if it is not on this tape.
  void backward(const Variable& scalar);
  /// Runs backward from any number of outputs, seeded with the given gradients (same shapes and dtypes as the outputs).
  /// Gradients are added to the parameters', and hooks run unless `hooks` says otherwise; this does not affect other
  /// tapes that a derivative runs. Throws TapeError on a second call, and within parallel_for; shapes are checked
  /// before anything runs.
  void backward(std::span<const Variable> outputs, std::span<const Tensor> seeds, Hooks hooks = Hooks::kRun);

  /// A leaf's gradient; undefined if the outputs do not depend on it. Throws TapeError for anything but a leaf.
  Tensor gradient(const Variable& leaf) const;

  /// Whether the variable was recorded here.
  bool holds(const Variable& variable) const { return variable.tape_ == id_; }
  bool consumed() const { return consumed_; }
  const std::vector<Node>& nodes() const { return nodes_; }
  /// Discards all nodes and values without running backward.
  void clear();

  /// Appends an operation if a tape is active and an input has history, and puts its outputs, which were constants, on
  /// the tape. Ops call `record` below. Throws TapeError within parallel_for, whether a tape is active or not.
  static void append(const char* op, std::span<Variable> outputs, const InputList& inputs, const SavedList& saved,
                     const Derivative& derivative, std::shared_ptr<const void> owned = {});

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
  void run(std::size_t index, Hooks hooks);
  std::int64_t add_value(const Tensor& tensor, bool is_leaf);

  std::uint64_t id_;
  std::shared_ptr<Tape*> self_;  // null once the tape has ended, for those who may outlive it
  bool consumed_ = false;
  std::pmr::monotonic_buffer_resource memory_;  // of what the nodes hold
  std::vector<Node> nodes_;
  std::vector<Value> values_;
  std::pmr::unordered_map<const void*, std::size_t> first_use_{&memory_};  // parameter -> first node that reads it
};

/// Makes a tape the active one of this thread for a scope. Afterwards the previous one is active again, if it still
/// exists.
class [[nodiscard]] Recording : public detail::OfOneScope {
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

/// Deactivates recording on this thread for a scope (PyTorch's no_grad).
class [[nodiscard]] NoRecording : public Recording {
 public:
  NoRecording() : Recording(nullptr) {}
};

/// Collects the parameters that operations read within a scope while no tape is active.
class [[nodiscard]] ParametersRead : public detail::OfOneScope {
 public:
  ParametersRead();

  /// Each parameter once, in order of first use.
  std::vector<Parameter> all() const;
  /// The same without frozen parameters.
  std::vector<Parameter> distinct() const;

 private:
  std::vector<Parameter> seen_;
  ScopedValue<std::vector<Parameter>*> listed_;
};

namespace detail {

/// A derivative may capture plain numbers only, since the tape stores it as bytes. Tensors go to `saved`, where the
/// tape can check and release them.
template <class Function>
Derivative derivative_of(const Function& function) {
  static_assert(std::is_trivially_copyable_v<Function>, "a derivative captures numbers; tensors belong in `saved`");
  return {[](const void* numbers, Backward& context) { (*static_cast<const Function*>(numbers))(context); },
          std::addressof(function), sizeof(Function), alignof(Function)};
}

}  // namespace detail

/// Records an operation.
template <class Function>
Variable record(const char* op, Tensor output, const InputList& inputs, const SavedList& saved,
                const Function& derivative) {
  Variable result(std::move(output));
  Tape::append(op, std::span(&result, 1), inputs, saved, detail::derivative_of(derivative));
  return result;
}

/// The same for an operation with several outputs.
template <class Function>
std::vector<Variable> record(const char* op, std::vector<Tensor> outputs, const InputList& inputs,
                             const SavedList& saved, const Function& derivative) {
  std::vector<Variable> results(outputs.begin(), outputs.end());
  Tape::append(op, results, inputs, saved, detail::derivative_of(derivative));
  return results;
}

/// Whether an op with these inputs would be recorded. If not, an op need not compute what only its derivative uses.
bool will_record(const InputList& inputs);

/// Runs backward on `tape` from any number of outputs, seeded with the given gradients. Gradient caching injects cached
/// gradients through this function.
inline void inject(Tape& tape, std::span<const Variable> outputs, std::span<const Tensor> gradients,
                   Hooks hooks = Hooks::kRun) {
  tape.backward(outputs, gradients, hooks);
}

}  // namespace tapecache
