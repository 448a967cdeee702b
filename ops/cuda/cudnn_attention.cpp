#include "tapecache/ops/cuda/cudnn_attention.h"

#include <algorithm>
#include <compare>
#include <initializer_list>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <type_traits>

#include "tapecache/ops/cuda/cudnn_graph.h"
#include "tapecache/ops/cuda/scratch.h"

namespace tapecache::kernels::cuda {

namespace {

using Argument = CudnnPlan::Argument;
using Operand = CudnnGraph::Operand;
using Sizes = CudnnGraph::Sizes;

/// Numbers of the tensors of the graphs.
enum Id : std::int64_t {
  kQueries = 1,
  kKeys,
  kValues,
  kOutput,
  kLogSumExp,
  kOutputGradient,
  kQueryGradient,
  kKeyGradient,
  kValueGradient,
  kDots,
  kScale,
  kOne,
  kNothing,
};

template <class Low>
constexpr cudnnDataType_t kLowType = std::is_same_v<Low, BFloat16> ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_HALF;

/// What a plan depends on.
struct Key {
  std::int64_t batch, tokens, heads, width;
  cudnnDataType_t low;
  bool causal, backward;

  auto operator<=>(const Key&) const = default;

  Key(const Attention& layout, cudnnDataType_t type, bool of_gradient)
      : batch(layout.batch),
        tokens(layout.tokens),
        heads(layout.heads),
        width(layout.width),
        low(type),
        causal(layout.causal),
        backward(of_gradient) {}
  Sizes sizes() const { return {batch, heads, tokens, width}; }
  /// Of a third of qkv, which is [batch, tokens, 3, heads, width].
  Sizes part_strides() const { return {tokens * 3 * heads * width, width, 3 * heads * width, 1}; }
  /// Of y, which is [batch, tokens, heads, width].
  Sizes output_strides() const { return {tokens * heads * width, width, heads * width, 1}; }
  std::string name() const {
    return std::string(backward ? "the gradient of attention" : "attention") + " by cuDNN over [" +
           std::to_string(batch) + ", " + std::to_string(tokens) + ", 3, " + std::to_string(heads) + ", " +
           std::to_string(width) + "]";
  }
};

/// The tensors that the graphs have in common.
class AttentionGraph : public CudnnGraph {
 public:
  explicit AttentionGraph(const Key& key) : key_(key) {
    if (key.backward) add_backward();
    else add_forward();
  }

 private:
  Operand part(Id id) { return tensor(id, key_.sizes(), key_.part_strides(), key_.low); }
  Operand transposed_part(Id id) {
    const auto [batch, heads, rows, columns] = key_.part_strides();
    return tensor(id, {key_.batch, key_.heads, key_.width, key_.tokens}, {batch, heads, columns, rows}, key_.low);
  }
  Operand output(Id id) { return tensor(id, key_.sizes(), key_.output_strides(), key_.low); }
  Operand row_values(Id id) {
    const Sizes sizes{key_.batch, key_.heads, key_.tokens, 1}, strides{key_.heads * key_.tokens, key_.tokens, 1, 1};
    return tensor(id, sizes, strides, CUDNN_DATA_FLOAT);
  }

  /// Scores of keys after the query are -∞.
  Operand masked(const Operand& scores) {
    if (!key_.causal) return scores;
    const Operand query = index(scores, 2), place = index(scores, 3);
    return select(pointwise(CUDNN_POINTWISE_CMP_GE, query, place, CUDNN_DATA_BOOLEAN), scores, number(kNothing));
  }

  void add_forward() {
    const Operand queries = part(kQueries), keys = transposed_part(kKeys), values = part(kValues);
    const Operand scores = masked(pointwise(CUDNN_POINTWISE_MUL, product(queries, keys), number(kScale)));
    const Operand largest = reduce(CUDNN_REDUCE_TENSOR_MAX, scores);
    const Operand exponentials = pointwise(CUDNN_POINTWISE_EXP, pointwise(CUDNN_POINTWISE_SUB, scores, largest));
    const Operand sum = reduce(CUDNN_REDUCE_TENSOR_ADD, exponentials);
    pointwise(CUDNN_POINTWISE_ADD, largest, pointwise(CUDNN_POINTWISE_LOG, sum), row_values(kLogSumExp));
    product(pointwise(CUDNN_POINTWISE_DIV, exponentials, sum, key_.low), values, output(kOutput));
  }

  // P = exp(S - logsumexp); dV = Pᵀ dY; dS = P (dY Vᵀ - Σ dY Y); dQ = scale dS K; dK = scale dSᵀ Q
  void add_backward() {
    const Operand queries = part(kQueries), keys = transposed_part(kKeys), values = transposed_part(kValues);
    const Operand output_gradient = output(kOutputGradient), scale = number(kScale), dots = row_values(kDots);
    const Operand sums =
        reduce(CUDNN_REDUCE_TENSOR_ADD, pointwise(CUDNN_POINTWISE_MUL, output_gradient, output(kOutput)));
    pointwise(CUDNN_POINTWISE_MUL, sums, number(kOne), dots);  // the engines know it by this

    const Operand scores = pointwise(CUDNN_POINTWISE_MUL, product(queries, keys), scale);
    const Operand shifted = masked(pointwise(CUDNN_POINTWISE_SUB, scores, row_values(kLogSumExp)));
    const Operand weights = pointwise(CUDNN_POINTWISE_EXP, shifted);
    product(transpose(weights, key_.low), output_gradient, part(kValueGradient));

    const Operand slopes = pointwise(CUDNN_POINTWISE_SUB, product(output_gradient, values), dots);
    const Operand gradient = pointwise(CUDNN_POINTWISE_MUL, pointwise(CUDNN_POINTWISE_MUL, slopes, weights), scale);
    product(transpose(gradient, key_.low), queries, part(kKeyGradient));
    // Straight to where it belongs: engines that add to an f32 tensor on the way do so in no fixed order.
    product(gradient, transpose(keys, key_.low, {{key_.part_strides()[0], key_.width, 1, key_.part_strides()[2]}}),
            part(kQueryGradient));
  }

  Key key_;
};

/// Plans of a device, which are made once for each shape.
class Attentions {
 public:
  Attentions() {
    const cudnnStatus_t status = cudnn()->create(&handle_);
    if (cudnn_insisted()) check(status, "starting cuDNN");
    if (status != CUDNN_STATUS_SUCCESS) handle_ = nullptr;  // other ways do without it
  }

  /// Puts it in the stream; returns false where there is no plan.
  bool run(const Key& key, double scale, std::vector<Argument> arguments) {
    const std::lock_guard lock(mutex_);
    if (!handle_) return false;
    auto found = plans_.find(key);
    if (found == plans_.end()) found = plans_.emplace(key, AttentionGraph(key).plan(handle_)).first;
    if (!found->second) return false;
    const CudnnPlan& plan = *found->second;
    const float factor = static_cast<float>(scale), one = 1, nothing = -std::numeric_limits<float>::infinity();
    arguments.push_back({kScale, &factor});
    if (key.causal) arguments.push_back({kNothing, &nothing});
    if (key.backward) arguments.push_back({kOne, &one});
    const Scratch<std::byte> workspace(plan.workspace);
    check(cudnn()->set_stream(handle_, current_stream()), "giving cuDNN a stream");
    execute(handle_, plan, arguments, workspace.data(), key.name());
    return true;
  }

 private:
  cudnnHandle_t handle_ = nullptr;
  std::mutex mutex_;
  std::map<Key, std::optional<CudnnPlan>> plans_;
};

/// Of the current device; never destroyed.
Attentions& attentions() {
  static std::mutex mutex;
  static auto* all = new std::map<int, std::unique_ptr<Attentions>>;
  const std::lock_guard lock(mutex);
  std::unique_ptr<Attentions>& one = (*all)[current_device()];
  if (!one) one = std::make_unique<Attentions>();
  return *one;
}

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

bool aligned(std::initializer_list<const void*> addresses) {
  for (const void* address : addresses) {
    if (reinterpret_cast<std::uintptr_t>(address) % kCudnnAlignment != 0) return false;
  }
  return true;
}

/// Whether it is worth asking: rows of 16 bytes, and more than one token, which the engines do not promise.
template <class Low>
bool suits(const Attention& layout) {
  return layout.is_plain() && layout.batch > 0 && layout.tokens > 1 && layout.heads > 0 && layout.width > 0 &&
         layout.width * sizeof(Low) % kCudnnAlignment == 0 && cudnn();
}

/// Pieces of about the same size, which need no more.
std::int64_t samples_at_once(const Attention& layout, std::int64_t most_workspace) {
  constexpr std::int64_t kTile = 128;  // the largest that engines round tokens up to
  const std::int64_t tokens = divide_up(layout.tokens, kTile) * kTile;
  const std::int64_t most = std::max<std::int64_t>(1, most_workspace / (layout.heads * tokens * tokens * 2));
  return divide_up(layout.batch, divide_up(layout.batch, most));
}

}  // namespace

template <class Low>
bool cudnn_attention(const Attention& layout, const Low* qkv, const bool* valid, Low* y, float* logsumexp) {
  if (valid || !suits<Low>(layout) || !aligned({qkv, y})) return false;
  const std::int64_t part = layout.heads * layout.width;
  return attentions().run(
      Key(layout, kLowType<Low>, false), layout.scale,
      {{kQueries, qkv}, {kKeys, qkv + part}, {kValues, qkv + 2 * part}, {kOutput, y}, {kLogSumExp, logsumexp}});
}

template <class Low>
bool cudnn_attention_backward(const Attention& layout, const Low* qkv, const bool* valid, const Low* y,
                              const float* logsumexp, const Low* dy, Low* dqkv, Mode mode,
                              std::int64_t most_workspace) {
  if (valid || mode != Mode::kWrite || !suits<Low>(layout)) return false;
  const std::int64_t width = layout.heads * layout.width, sample = layout.tokens * width;
  const std::int64_t rows = layout.heads * layout.tokens;
  Attention piece = layout;
  piece.batch = samples_at_once(layout, most_workspace);
  for (std::int64_t first = 0; first < layout.batch; first += piece.batch) {
    piece.batch = std::min(piece.batch, layout.batch - first);
    const Low *from = qkv + first * 3 * sample, *result = y + first * sample, *gradient = dy + first * sample;
    const float* sums = logsumexp + first * rows;
    Low* to = dqkv + first * 3 * sample;
    if (!aligned({from, result, gradient, to})) return false;
    const Scratch<float> dots(piece.batch * rows);
    const bool taken = attentions().run(Key(piece, kLowType<Low>, true), layout.scale,
                                        {{kQueries, from},
                                         {kKeys, from + width},
                                         {kValues, from + 2 * width},
                                         {kOutput, result},
                                         {kLogSumExp, sums},
                                         {kOutputGradient, gradient},
                                         {kQueryGradient, to},
                                         {kKeyGradient, to + width},
                                         {kValueGradient, to + 2 * width},
                                         {kDots, dots.data()}});
    if (!taken) return false;
  }
  return true;
}

template <class Low>
std::int64_t cudnn_attention_workspace(const Attention& layout, bool backward, const std::string& device) {
  if (!suits<Low>(layout)) return -1;
  const std::optional<CudnnPlan> plan = AttentionGraph(Key(layout, kLowType<Low>, backward)).plan(device);
  return plan ? plan->workspace : -1;
}

template bool cudnn_attention(const Attention&, const BFloat16*, const bool*, BFloat16*, float*);
template bool cudnn_attention(const Attention&, const Float16*, const bool*, Float16*, float*);
template bool cudnn_attention_backward(const Attention&, const BFloat16*, const bool*, const BFloat16*, const float*,
                                       const BFloat16*, BFloat16*, Mode, std::int64_t);
template bool cudnn_attention_backward(const Attention&, const Float16*, const bool*, const Float16*, const float*,
                                       const Float16*, Float16*, Mode, std::int64_t);
template std::int64_t cudnn_attention_workspace<BFloat16>(const Attention&, bool, const std::string&);
template std::int64_t cudnn_attention_workspace<Float16>(const Attention&, bool, const std::string&);

}  // namespace tapecache::kernels::cuda
