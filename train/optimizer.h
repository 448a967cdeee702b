#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tapecache/autograd/variable.h"
#include "tapecache/core/error.h"
#include "tapecache/core/number.h"

namespace tapecache::train {

/// Euclidean norm of all gradients together, added in f64; parameters without a gradient are passed over. Here and
/// below one that is listed more than once, as tied weights may be, counts once. The norm stays on the gradients'
/// device; only where they are on several does the host wait for them.
Number gradient_norm(std::span<const Parameter> parameters);

/// Scales all gradients, of one device, so that their norm is at most `max_norm` (Pascanu et al. 2013), and returns the
/// norm before that, without waiting for it. A norm that is NaN or Inf leaves the gradients as they are. Throws
/// ValueError unless max_norm > 0, DeviceError for gradients on several devices.
Number clip_gradient_norm(std::span<const Parameter> parameters, double max_norm);

/// What optimisers share: parameters, and state that a checkpoint can keep.
class Optimizer {
 public:
  /// How the parameters of some names are trained, where not as all others.
  struct Group {
    std::string pattern;                      ///< of whole names, as a shell has them: "encoder.layer.0.*", "*.bias"
    std::optional<double> rate_factor = {};   ///< of the learning rate, in the place of what `layer_decay` makes of it
    std::optional<double> weight_decay = {};  ///< in the place of what the other options say
  };

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
  std::vector<double> weight_decays(double weight_decay, const std::function<double(const Parameter&)>& chosen,
                                    const std::vector<Group>& groups) const;
  /// The same of factors of the learning rate: of blocks of layers, each `layer_decay` times the one above it.
  std::vector<double> rate_factors(double layer_decay, const std::vector<Group>& groups) const;

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
  /// Where it is set, gives each parameter's weight decay in the place of `weight_decay`, whatever the parameter's
  /// axes. It is called once for each parameter, when the optimiser is made.
  std::function<double(const Parameter&)> weight_decay_of = {};
  /// Of a parameter that several match the first counts.
  std::vector<Optimizer::Group> groups = {};
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
  std::function<double(const Parameter&)> weight_decay_of = {};
  std::vector<Optimizer::Group> groups = {};
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

/// Learning rate of a step counted from 0: linear from peak/warmup to peak over the first `warmup` steps, then half a
/// cosine down to `floor`, reached at step `total` (Loshchilov & Hutter 2017). Steps past `total` get the floor.
/// Throws ValueError unless step >= 0, 0 <= warmup <= total, total >= 1 and 0 <= floor <= peak.
double warmup_cosine(std::int64_t step, std::int64_t warmup, std::int64_t total, double peak, double floor = 0.0);

/// A schedule as transformers' `get_scheduler` has it.
class Schedule {
 public:
  enum class Kind { kConstant, kConstantWithWarmup, kLinear, kCosine, kCosineWithRestarts };

  explicit Schedule(Kind kind) : kind_(kind) {}
  /// The schedule of a name there, such as "cosine_with_restarts". Throws ValueError.
  static Schedule parse(std::string_view name);

  /// Factor of the peak learning rate of a step counted from 0, as transformers computes it: step / warmup over the
  /// first `warmup` steps (constant has none), of which the first has a rate of 0; then down to 0 at step `total`, but
  /// for the constant ones. `cycles` is how often kCosineWithRestarts begins anew. Throws ValueError unless step and
  /// warmup are at least 0, total and cycles at least 1.
  double factor(std::int64_t step, std::int64_t warmup, std::int64_t total, int cycles = 1) const;

 private:
  Kind kind_;
};

struct EmaOptions {
  double decay = 0.999;  ///< how much of the average stays in an update
  bool warm_up = true;   ///< at first less does: (1 + n) / (10 + n) after n updates, where that is below `decay`
};

/// Exponential moving average of parameters and buffers (Polyak & Juditsky 1992), which is often the better model.
class Ema {
 public:
  /// Begins with what they are now. Throws ValueError unless 0 <= decay < 1, and where two have one name; OutOfMemory.
  explicit Ema(std::span<const Parameter> parameters, const EmaOptions& options = {},
               std::span<const Buffer> buffers = {});

  /// To be called after each step of the optimiser. Throws OutOfMemory, and then nothing is changed.
  void update();
  std::int64_t updates() const;

  /// The averages, `ema.NAME`, and how many updates they are of: tensors of its own, which `save_checkpoint` and
  /// `load_checkpoint` take among the buffers. On resuming the same bits follow.
  const std::vector<Buffer>& state() const { return state_; }

  /// The averages in the place of what parameters and buffers are, which they are again at the end of the scope,
  /// however that is left. Parameters must not be trained or saved in a checkpoint meanwhile.
  class [[nodiscard]] Scope : public detail::OfOneScope {
   public:
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    friend class Ema;
    explicit Scope(const Ema& ema);
    std::vector<Tensor> live_, own_;
  };
  /// Throws OutOfMemory, and then nothing is changed.
  Scope use() const { return Scope(*this); }

 private:
  EmaOptions options_;
  std::vector<Tensor> live_;   // of parameters and buffers
  std::vector<Buffer> state_;  // their averages in that order, then the count
};

}  // namespace tapecache::train
