#include <cstdio>
#include <vector>

#include <tapecache/tapecache.h>

// What docs/gradcache.md, docs/cuda.md and some headers show in parts. What needs a GPU runs where there is one.

using namespace tapecache;
using gradcache::StepResult;

namespace {

constexpr std::uint32_t steps = 4, warmup = 1;
constexpr double peak = 1e-3;

const models::Builder builder(/*seed=*/1);
const models::Linear image_layer(builder.child("image"), 64, 16, models::Init::normal(0.1));
const models::TextTransformer text_layer(builder.child("text"),
                                         {.vocabulary = 10,
                                          .max_tokens = 4,
                                          .encoder = {.width = 16, .layers = 1, .heads = 2, .mlp_width = 32}});

Variable encode(const Variable& x) { return ops::l2_normalize(image_layer(x)); }
Variable encode_image(const Tensor& x) { return encode(x); }
Variable encode_text(const models::TokenBatch& x) { return ops::l2_normalize(text_layer(x)); }
Variable encoder(const Tensor& x) { return encode(x); }

Variable augmented(const Tensor& x) {
  const Variable gain = ops::scale(ops::sample_uniform(x.size(0), 1), 0.4);
  return encode(ops::multiply(x, ops::add(gain, Tensor::scalar(0.8f))));
}

Tensor next_images() { return Tensor::full({64, 64}, 0.5); }
models::TokenBatch texts() { return {Tensor::full({64, 4}, 9, DType::kInt32), {}}; }

gradcache::StepOptions all_options() {
  gradcache::StepOptions options{.cut = {32}};        // 32 samples a chunk, in every tower
  options.cut = gradcache::ChunkTokens{4096};         // or: texts, chunks by tokens, ordered by length
  options.cut = gradcache::MemoryBudget{8ull << 30};  // or: what the step may use, and nothing else to choose
  options.reproducible_block = 8;                     // equal to the last bit, for chunks of 8, 16, 24, …
  options.reproducible_block = 32;                    // or of 32, 64, …, at less cost
  options.check_recompute = true;                     // compare both forwards
  options.retry_smaller_chunks = true;                // after OutOfMemory
  options.scale = 1.0 / 4;                            // one of four accumulated steps; or a loss scale
  options.offload = true;                             // on a GPU: keep representations in the host's memory
  options.device = Device::cuda(0);                   // whose bytes count, for a budget and peak_bytes
  return options;
}

double captured(Device device) {
  Tensor images = next_images().to(device);
  const std::vector<gradcache::Tower> towers{{"image", images, encode_image},
                                             {"text", texts().to(device), encode_text}};
  const gradcache::Loss loss = [](auto r) { return losses::info_nce(r[0], r[1]); };
  train::AdamW optimizer(builder.parameters());
  Tensor rate = Tensor::zeros({}, DType::kFloat64, device);
  StepResult result;
  CapturedStep step(device, [&] {
    result = gradcache::cached_step(towers, loss, {.cut = {64}, .deferred = true, .device = device});
    optimizer.step(rate, 1, result.non_finite);
    optimizer.clear_gradients();
  });
  for (std::uint32_t t = 0; t < steps; ++t) {
    images.copy_from(next_images());
    rate.fill(train::warmup_cosine(t, warmup, steps, peak));
    step.replay(t);
  }
  return result.loss.item();
}

void copies(const Tensor& images) {
  Tensor batch = images.pinned();  // page-locked memory of the host; new: Tensor::empty_pinned(shape, dtype)
  Tensor there = batch.to_async(Device::cuda(0));   // returns at once: the copy runs beside what the device computes
  Variable y = encoder(there);                      // what uses it first waits for it, on the device
  Tensor back = y.value().to_async(Device::cpu());  // and here the host would wait, when it reads
}

double uploaded(const Tensor& images, const models::TokenBatch& tokens) {
  const gradcache::Loss loss = [](auto r) { return losses::info_nce(r[0], r[1]); };
  gradcache::StepOptions options{.cut = {16}};
  std::vector<gradcache::Tower> towers{
      gradcache::Tower("image", images.pinned(), encode_image).upload_to(Device::cuda(0)),
      gradcache::Tower("text", tokens.pinned(), encode_text).upload_to(Device::cuda(0))};
  options.offload = true;
  options.device = Device::cuda(0);
  return gradcache::cached_step(towers, loss, options).loss.item();
}

void captured_uploads(const Tensor& first_images, const models::TokenBatch& tokens) {
  const gradcache::Loss loss = [](auto r) { return losses::info_nce(r[0], r[1]); };
  gradcache::StepOptions options{.cut = {16}};
  options.offload = options.deferred = true;
  options.device = Device::cuda(0);
  StepResult result;
  Tensor images = first_images.pinned();
  const std::vector<gradcache::Tower> towers{
      gradcache::Tower("image", images, encode_image).upload_to(Device::cuda(0)),
      gradcache::Tower("text", tokens.pinned(), encode_text).upload_to(Device::cuda(0))};
  CapturedStep step(Device::cuda(0), [&] { result = gradcache::cached_step(towers, loss, options); });
  for (std::uint32_t t = 0; t < steps; ++t) {
    images.copy_from(next_images());  // waits for the replay before, which uploads from here until its last chunk
    step.replay(t);
  }
  result.representations[0].data<float>();  // off-loaded: waits for the last replay, which left them there
}

}  // namespace

int main() {
  std::printf("%zu bytes\n", std::get<gradcache::MemoryBudget>(all_options().cut).bytes);
  std::printf("loss %.2f\n", captured(Device::cpu()));
  std::printf("%lld numbers\n", static_cast<long long>(augmented(next_images()).numel()));
  if (Device::cuda_count() == 0) return 0;
  builder.to(Device::cuda(0));
  for (Parameter p : builder.parameters()) p.clear_gradient();
  copies(next_images());
  std::printf("loss %.2f\n", uploaded(next_images(), texts()));
  captured_uploads(next_images(), texts());
}
