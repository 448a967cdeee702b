#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <memory_resource>
#include <vector>

#include "tapecache/autograd/parameter.h"
#include "tapecache/core/shape.h"
#include "tapecache/core/tensor.h"

namespace tapecache {

class Backward;
class Tape;

/// A derivative of plain numbers, which may be copied as bytes.
struct Derivative {
  void (*call)(const void* numbers, Backward& context) = nullptr;
  const void* numbers = nullptr;
  std::size_t bytes = 0, alignment = 1;
};

/// One recorded operation: its name, where its inputs come from, what it keeps for its derivative, and the
/// derivative. It lies in the memory of its tape.
struct Node {
  struct Input {
    std::int64_t value = -1;  ///< number of a value on the tape, or -1
    Parameter parameter;      ///< set where the input is a parameter that wants a gradient
    Shape shape;
    bool given = false;  ///< its gradient's buffer, to the derivative that runs
    bool begun = false;  ///< which is then the first to write there
  };

  const char* op = "";
  std::pmr::vector<Input> inputs;
  std::pmr::vector<Tensor> saved;
  std::pmr::vector<std::uint64_t> saved_versions;
  std::int64_t first_output = 0;
  int outputs = 1;
  Derivative derivative;
  std::shared_ptr<const void> owned;  ///< what else the derivative stands on
};

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
  Backward(Tape& tape, Node& node) : tape_(tape), node_(node) {}
  struct Kind {
    const Shape& shape;
    DType dtype;
    Device device;
  };
  const Node::Input& input(std::size_t index) const;
  Node::Input& wanted(std::size_t input);
  Kind kind_of(const Node::Input& input) const;
  Tensor& slot(Node::Input& input);
  bool was_given(const Node::Input& other);
  /// After a derivative has thrown: takes back the buffers that it may not have written.
  void withdraw();

  Tape& tape_;
  Node& node_;
};

namespace detail {
/// Adds to a gradient that may still be shared with another slot or with the caller's seed. The gradient of a leaf
/// outlives the pass: it is the leaf's alone, and keeps no larger storage alive that it only views. Memory that is a
/// program's own is copied.
void add_to_slot(Tensor& slot, const Tensor& gradient, bool is_leaf);
}  // namespace detail

}  // namespace tapecache
