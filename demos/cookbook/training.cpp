#include <cmath>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include <tapecache/tapecache.h>

using namespace tapecache;

/// SimCSE: a sentence meets itself under another dropout, and every other sentence of the batch is a negative.
struct Training {
  static constexpr std::int64_t kSteps = 40, kBatch = 30;

  models::Builder builder{/*seed=*/7};
  models::Bert bert;
  Parameter log_scale = builder.parameter("log_scale", Shape{}, models::Init::constant(std::log(20.0)));
  train::AdamW optimizer{builder.parameters(), {.weight_decay = 0.01}};
  std::vector<std::vector<std::int32_t>> sentences;

  Training(std::vector<std::vector<std::int32_t>> tokens, const models::BertConfig& config)
      : bert(builder.child("bert"), config), sentences(std::move(tokens)) {}

  double step(std::int64_t number) {
    begin_random_step(/*seed=*/1, static_cast<std::uint32_t>(number));  // all that dropout draws depends on
    const auto first = static_cast<std::size_t>(number * kBatch) % sentences.size();
    const auto batch = models::TokenBatch::pad(std::span(sentences).subspan(first, kBatch));
    const auto encode = [&](const models::TokenBatch& x) { return ops::l2_normalize(bert(x)); };
    const auto loss = [&](const gradcache::Representations& r) {
      return losses::info_nce(r.at("once"), r.at("again"), {.scale = ops::exp(log_scale)});
    };
    const std::vector<gradcache::Tower> towers{{"once", batch, encode}, {"again", batch, encode}};
    const auto result =
        gradcache::cached_step(towers, loss, {.cut = gradcache::ChunkTokens{64}, .autocast = DType::kBFloat16});
    if (result.status == gradcache::StepStatus::kDone) {
      train::clip_gradient_norm(builder.parameters(), 1.0);
      optimizer.step(train::warmup_cosine(number, /*warmup=*/5, kSteps, /*peak=*/3e-3));
    }
    optimizer.clear_gradients();
    return result.loss.item();
  }
};

int main() {
  std::vector<std::string> texts;
  for (const char* who : {"the cat", "a dog", "my brother", "nobody", "the old teacher"}) {
    for (const char* does : {"likes", "eats", "paints", "forgets"}) {
      for (const char* what : {"apples", "music", "rain"}) texts.push_back(std::string(who) + " " + does + " " + what);
    }
  }
  const auto tokenizer = data::WordTokenizer::build(texts, /*min_count=*/1);
  std::vector<std::vector<std::int32_t>> tokens;
  for (const std::string& text : texts) tokens.push_back(tokenizer.encode(text, 16));

  const models::BertConfig config{
      .vocabulary = tokenizer.vocabulary_size(),
      .max_tokens = 16,
      .encoder = {.width = 32, .layers = 2, .heads = 4, .mlp_width = 64, .dropout = 0.1},
  };
  Training run(tokens, config);
  for (std::int64_t step = 0; step < 20; ++step) run.step(step);
  train::save_checkpoint("run.safetensors", run.builder.parameters(), run.optimizer, {.step = 20, .seed = 1});
  double loss = 0;
  for (std::int64_t step = 20; step < Training::kSteps; ++step) loss = run.step(step);

  Training resumed(tokens, config);
  const auto at = train::load_checkpoint("run.safetensors", resumed.builder.parameters(), resumed.optimizer);
  double loss_resumed = 0;
  for (std::int64_t step = at.step; step < Training::kSteps; ++step) loss_resumed = resumed.step(step);
  std::printf("loss below 0.7: %s\n", loss < 0.7 ? "yes" : "no");
  std::printf("resumed to the same bits: %s\n", loss == loss_resumed ? "yes" : "no");

  // The encoder alone, out of the checkpoint, for inference: no dropout, no tape, nothing kept.
  models::Builder builder(/*seed=*/0);
  const models::Bert encoder(builder, config);
  models::load_weights("run.safetensors", builder, {.prefix = "model.bert."});
  builder.set_training(false);
  const Variable y = encoder(models::TokenBatch::pad(tokens));
  std::printf("representations: %s\n", describe(y.value()).c_str());
}
