#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tapecache/autograd/parameter.h"
#include "tapecache/core/number.h"

namespace tapecache::train {

/// Weight decay of one parameter, where it is not the same for all: asked once of each, when the optimiser is made.
using WeightDecayOf = std::function<double(const Parameter&)>;

/// How the parameters of some names are trained, where not as all others.
struct ParameterGroup {
  std::string pattern;                      ///< of whole names, as a shell has them: "encoder.layer.0.*", "*.bias"
  std::optional<double> rate_factor = {};   ///< of the learning rate, in the place of what `layer_decay` makes of it
  std::optional<double> weight_decay = {};  ///< in the place of what the other options say
};

/// What optimisers share: parameters, and state that a checkpoint can keep.
class Optimizer {
 public:
  virtual ~Optimizer() = default;

  /// Updates every parameter that has a gradient, which is multiplied by `gradient_scale` first, unless `skip_if` is
  /// not 0: how many values of the step are NaN or Inf, say. Does not wait for numbers that the parameters' device
  /// holds: it reads them when it gets there, so that the step can be captured (`CapturedStep`) and replayed with
  /// others, and what changes from step to step, as AdamW's count of steps, is moved there. Throws, before anything is
  /// changed,
  /// - ValueError unless the rate is finite and at least 0 and the scale finite, where the host knows them;
  /// - ShapeError where a gradient does not fit its parameter;
  /// - DeviceError for a number that another device holds;
  /// - Error within a captured step for a rate or a scale that the host knows, which would stay as it is.
  void step(const Number& learning_rate, const Number& gradient_scale = 1, const Number& skip_if = 0);
  void clear_gradients();

  /// All state by name; the tensors are the optimiser's own, not copies.
  virtual std::map<std::string, Tensor> state() const = 0;
  /// Takes over copies. Throws, before anything is changed, ValueError or ShapeError where a name is missing or unknown
  /// or a tensor does not fit, and OutOfMemory.
  void load_state(const std::map<std::string, Tensor>& state);
  /// Throws what `load_state` would but for OutOfMemory, and changes nothing. An override may ask more of the values.
  virtual void check_state(const std::map<std::string, Tensor>& state) const;

 protected:
  /// `name` is for messages. Throws ValueError where two parameters have one name, since state goes by name.
  Optimizer(const char* name, std::vector<Parameter> parameters);
  /// The step, with numbers and gradients that were checked. That of which the host knows that it is skipped is not
  /// asked for.
  virtual void update(const StepNumbers& numbers) = 0;
  /// Throws ValueError naming the option unless it holds.
  void require(bool holds, const char* what, double found, const char* expected) const;
  /// Of each parameter: what the first group that it is in says, or else `chosen`, or else `weight_decay` for one of
  /// two or more axes. Throws ValueError naming the parameter for a decay that is not finite or below 0, and for a
  /// group that no parameter is in.
  std::vector<double> weight_decays(double weight_decay, const WeightDecayOf& chosen,
                                    const std::vector<ParameterGroup>& groups) const;
  /// The same of factors of the learning rate: of blocks of layers, each `layer_decay` times the one above it.
  std::vector<double> rate_factors(double layer_decay, const std::vector<ParameterGroup>& groups) const;

  std::string name_;
  std::vector<Parameter> parameters_;

 private:
  void check_numbers(const StepNumbers& numbers) const;
  void check_gradients() const;
};

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  /// Decoupled; applied to parameters of two or more axes, so not to biases, norms and temperatures.
  double weight_decay = 0.01;
  /// Where it is set, decides in the place of `weight_decay`, whatever the parameter's axes.
  WeightDecayOf weight_decay_of = {};
  /// Of a parameter that several match the first counts.
  std::vector<ParameterGroup> groups = {};
  /// Layer-wise decay of the learning rate (Clark et al. 2020, "ELECTRA"), as timm has it: of L numbered blocks the
  /// last is trained at layer_decay times the rate, each other at layer_decay times that of the next one, embeddings
  /// below the first; what stands above the blocks at the rate itself. Towers are counted each by itself.
  double layer_decay = 1;
};

/// AdamW (Loshchilov & Hutter 2019, "Decoupled weight decay regularization").
class AdamW : public Optimizer {
 public:
  /// Throws ValueError for options outside their range or two parameters of one name.
  AdamW(std::vector<Parameter> parameters, const AdamWOptions& options = {});
  std::map<std::string, Tensor> state() const override;
  /// Throws ValueError for a count of steps below 0 too.
  void check_state(const std::map<std::string, Tensor>& state) const override;

 private:
  void update(const StepNumbers& numbers) override;

  AdamWOptions options_;
  std::vector<double> decays_, factors_;
  // Of each parameter, since one may be skipped. The counts are i64 scalars: as tensors they travel with the rest. They
  // are on the host but for a step with a number that a device holds.
  std::vector<Tensor> steps_, m_, v_;
};

struct SgdOptions {
  double momentum = 0.0;
  double weight_decay = 0.0;  ///< an L2 penalty, on parameters of two or more axes
  // As in AdamWOptions.
  WeightDecayOf weight_decay_of = {};
  std::vector<ParameterGroup> groups = {};
  double layer_decay = 1;
};

/// Stochastic gradient descent with (heavy-ball) momentum.
class Sgd : public Optimizer {
 public:
  /// Throws ValueError for options outside their range or two parameters of one name.
  Sgd(std::vector<Parameter> parameters, const SgdOptions& options = {});
  std::map<std::string, Tensor> state() const override;

 private:
  void update(const StepNumbers& numbers) override;

  SgdOptions options_;
  std::vector<double> decays_, factors_;
  std::vector<Tensor> velocity_;
};

}  // namespace tapecache::train
