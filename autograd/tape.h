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

/// The inputs of an operation, for the length of a call: of a list in braces, of which none is copied, or of an array.
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

/// Tensors to be kept, for the length of a call.
class SavedList : public std::span<const Tensor> {
 public:
  SavedList() = default;
  SavedList(std::initializer_list<Tensor> tensors) : span(std::data(tensors), tensors.size()) {}
  SavedList(const std::vector<Tensor>& tensors) : span(tensors) {}
};

/// Whether a backward pass runs the hooks of parameters, or leaves them to who adds its gradients to others.
enum class Hooks { kRun, kLeave };

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
  /// Parameters receive their gradients, and their hooks run unless they are left: those of this pass, and not of
  /// another tape that a derivative works with. Throws TapeError on a second call, and in a body of parallel_for;
  /// shapes are checked before anything runs.
  void backward(std::span<const Variable> outputs, std::span<const Tensor> seeds, Hooks hooks = Hooks::kRun);

  /// A leaf's gradient; undefined where the outputs do not depend on it. Throws TapeError for anything else.
  Tensor gradient(const Variable& leaf) const;

  /// Whether the variable was recorded here.
  bool holds(const Variable& variable) const { return variable.tape_ == id_; }
  bool consumed() const { return consumed_; }
  const std::vector<Node>& nodes() const { return nodes_; }
  /// Drops all nodes and values without running them.
  void clear();

  /// Appends an operation where a tape is active and an input has history, and gives its outputs, which are constants,
  /// their place on the tape. Ops call `record` below. Throws TapeError in a body of parallel_for, whether a tape is
  /// active or not.
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

/// Makes a tape the active one of this thread for a scope. Afterwards the one before is active again, if it still
/// lives.
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

/// Leaves no tape active for a scope.
class [[nodiscard]] NoRecording : public Recording {
 public:
  NoRecording() : Recording(nullptr) {}
};

/// Collects, for a scope, the parameters that operations read while no tape is active.
class [[nodiscard]] ParametersRead : public detail::OfOneScope {
 public:
  ParametersRead();

  /// Each of them once, in the order of first use.
  std::vector<Parameter> all() const;
  /// The same without those that are frozen.
  std::vector<Parameter> distinct() const;

 private:
  std::vector<Parameter> seen_;
  ScopedValue<std::vector<Parameter>*> listed_;
};

namespace detail {

/// The derivative can be released at any time: it may capture plain numbers only. Tensors go to `saved`, where they can
/// be seen.
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

/// The same for several outputs.
template <class Function>
std::vector<Variable> record(const char* op, std::vector<Tensor> outputs, const InputList& inputs,
                             const SavedList& saved, const Function& derivative) {
  std::vector<Variable> results(outputs.begin(), outputs.end());
  Tape::append(op, results, inputs, saved, detail::derivative_of(derivative));
  return results;
}

/// Whether an op over these inputs would be recorded, so that what only the derivative needs can be left out.
bool will_record(const InputList& inputs);

/// Runs backward on `tape` from any number of outputs, seeded with the given gradients: the hook that gradient
/// caching injects cached gradients through.
inline void inject(Tape& tape, std::span<const Variable> outputs, std::span<const Tensor> gradients,
                   Hooks hooks = Hooks::kRun) {
  tape.backward(outputs, gradients, hooks);
}

}  // namespace tapecache
