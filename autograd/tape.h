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

#include "tapecache/autograd/variable.h"
#include "tapecache/core/forward_context.h"
#include "tapecache/core/tensor.h"

namespace tapecache {

class Backward;
class Tape;

namespace detail {

/// A derivative as a function over the numbers that it captured, which are copied as bytes.
struct Derivative {
  void (*call)(const void* numbers, Backward& context) = nullptr;
  const void* numbers = nullptr;
  std::size_t bytes = 0, alignment = 1;
};

/// One recorded operation: its name, where its inputs come from, the tensors and numbers that its derivative needs, and
/// the derivative. It is stored in the memory of its tape.
struct Node {
  struct Input {
    std::int64_t value = -1;  ///< number of a value on the tape, or -1
    Parameter parameter;      ///< set where the input is a parameter that wants a gradient
    Shape shape;
    bool given = false;  ///< whether the derivative that runs has asked for this gradient's buffer
    bool begun = false;  ///< whether it is then the first to write there
  };

  const char* op = "";
  std::pmr::vector<Input> inputs;
  std::pmr::vector<Tensor> saved;
  std::pmr::vector<std::uint64_t> saved_versions;
  std::int64_t first_output = 0;
  int outputs = 1;
  Derivative derivative;
  std::shared_ptr<const void> owned;  ///< what else must live as long as the derivative
};

}  // namespace detail

/// Where a gradient kernel puts its result, and whether it adds to what is there.
struct GradientTarget {
  Tensor tensor;
  bool accumulate = false;
};

/// What a derivative sees: gradients of the outputs, saved tensors, and where to put the gradients of the inputs.
/// Throws TapeError for an output, a saved tensor or an input that there is not.
class Backward {
 public:
  /// The gradient of an output; undefined where nothing depends on that output (only with several outputs).
  const Tensor& output_gradient(std::size_t output = 0) const;
  const Tensor& saved(std::size_t index) const;
  std::size_t inputs() const { return node_.inputs.size(); }
  /// The shape of an input whose gradient is wanted or not.
  const Shape& input_shape(std::size_t input) const;
  /// Whether an input's gradient is wanted: that of a constant or a frozen parameter is not.
  bool needs(std::size_t input) const;
  /// The buffer for an input's gradient. A kernel must write or accumulate as it says, and write every element; of
  /// several inputs, in their order, since two of them may be one variable. Throws TapeError where it is not wanted.
  GradientTarget gradient(std::size_t input);
  /// Gives a finished tensor as (a summand of) an input's gradient, without a copy where it is the first. Throws
  /// TapeError where it is not wanted; ShapeError, DTypeError or DeviceError where it is not like the input.
  void pass(std::size_t input, const Tensor& gradient);

 private:
  friend class Tape;
  Backward(Tape& tape, detail::Node& node) : tape_(tape), node_(node) {}
  struct Kind {
    const Shape& shape;
    DType dtype;
    Device device;
  };
  const detail::Node::Input& input(std::size_t index) const;
  detail::Node::Input& wanted(std::size_t input);
  Kind kind_of(const detail::Node::Input& input) const;
  Tensor& slot(detail::Node::Input& input);
  bool was_given(const detail::Node::Input& other);
  /// After a derivative has thrown: takes back the buffers that it may not have written.
  void withdraw();

  Tape& tape_;
  detail::Node& node_;
};

namespace detail {

/// Adds to a gradient that may still be shared with another slot or with the caller's seed. The gradient of a leaf
/// outlives the pass: it is the leaf's alone, and keeps no larger storage alive that it only views. Memory that is a
/// program's own is copied.
void add_to_slot(Tensor& slot, const Tensor& gradient, bool is_leaf);

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

/// Whether an operation with these inputs would be recorded now: an op whose derivative needs more than its result
/// computes that only then.
bool will_record(const InputList& inputs);

/// Tensors to be saved for backward, for the duration of a call.
class SavedList : public std::span<const Tensor> {
 public:
  SavedList() = default;
  SavedList(std::initializer_list<Tensor> tensors) : span(std::data(tensors), tensors.size()) {}
  SavedList(const std::vector<Tensor>& tensors) : span(tensors) {}
};

}  // namespace detail

/// The record of a computation in execution order; backward walks it from the end. A tape is an explicit object, which
/// a `Recording` makes active on a thread; without an active tape nothing is recorded. Any number of tapes may exist at
/// once. Backward consumes the tape: saved tensors and gradients are released as soon as each node has run.
class Tape {
 public:
  /// Whether a backward pass runs the parameters' hooks, or leaves that to a caller that sums the gradients of several
  /// passes.
  enum class Hooks { kRun, kLeave };

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
  const std::vector<detail::Node>& nodes() const { return nodes_; }
  /// Discards all nodes and values without running backward.
  void clear();

  /// Appends an operation if a tape is active and an input has history, and puts its outputs, which were constants, on
  /// the tape. Ops call `record` below. Throws TapeError within parallel_for, whether a tape is active or not.
  static void append(const char* op, std::span<Variable> outputs, const detail::InputList& inputs,
                     const detail::SavedList& saved, const detail::Derivative& derivative,
                     std::shared_ptr<const void> owned = {});

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
  std::vector<detail::Node> nodes_;
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
Variable record(const char* op, Tensor output, const detail::InputList& inputs, const detail::SavedList& saved,
                const Function& derivative) {
  Variable result(std::move(output));
  Tape::append(op, std::span(&result, 1), inputs, saved, detail::derivative_of(derivative));
  return result;
}

/// The same for an operation with several outputs.
template <class Function>
std::vector<Variable> record(const char* op, std::vector<Tensor> outputs, const detail::InputList& inputs,
                             const detail::SavedList& saved, const Function& derivative) {
  std::vector<Variable> results(outputs.begin(), outputs.end());
  Tape::append(op, results, inputs, saved, detail::derivative_of(derivative));
  return results;
}

/// Runs backward on `tape` from any number of outputs, seeded with the given gradients. Gradient caching injects cached
/// gradients through this function.
inline void inject(Tape& tape, std::span<const Variable> outputs, std::span<const Tensor> gradients,
                   Tape::Hooks hooks = Tape::Hooks::kRun) {
  tape.backward(outputs, gradients, hooks);
}

}  // namespace tapecache
