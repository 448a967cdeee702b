#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <future>
#include <iterator>
#include <mutex>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include <tapecache/tapecache.h>

using namespace tapecache;

/// Embeds texts for any number of threads, one batch at a time: whatever waits when the model is free goes into the
/// next batch.
class EmbeddingServer {
 public:
  EmbeddingServer(const models::Bert& bert, std::size_t largest_batch)
      : bert_(bert), largest_batch_(largest_batch), worker_([this] { serve(); }) {}
  ~EmbeddingServer() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_one();
    worker_.join();  // after the last request
  }

  /// From any thread. An error of the library comes out of the future, of that batch alone.
  std::future<std::vector<float>> embed(std::vector<std::int32_t> ids) {
    std::promise<std::vector<float>> promise;
    std::future<std::vector<float>> result = promise.get_future();
    {
      const std::lock_guard lock(mutex_);
      waiting_.push_back({std::move(ids), std::move(promise)});
    }
    changed_.notify_one();
    return result;
  }

 private:
  struct Request {
    std::vector<std::int32_t> ids;
    std::promise<std::vector<float>> promise;
  };

  void serve() {
    for (;;) {
      std::vector<Request> batch;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return stop_ || !waiting_.empty(); });
        if (waiting_.empty()) return;
        const auto count = static_cast<std::ptrdiff_t>(std::min(waiting_.size(), largest_batch_));
        batch.assign(std::make_move_iterator(waiting_.begin()), std::make_move_iterator(waiting_.begin() + count));
        waiting_.erase(waiting_.begin(), waiting_.begin() + count);
      }
      answer(batch);
    }
  }

  void answer(std::vector<Request>& batch) {
    try {
      std::vector<std::vector<std::int32_t>> ids;
      for (const Request& request : batch) ids.push_back(request.ids);
      const auto rows = ops::l2_normalize(bert_(models::TokenBatch::pad(ids))).value();
      for (std::size_t i = 0; i < batch.size(); ++i) {
        const auto row = static_cast<std::int64_t>(i);
        batch[i].promise.set_value(rows.slice(row, row + 1).to_vector<float>());
      }
    } catch (...) {
      for (Request& request : batch) request.promise.set_exception(std::current_exception());
    }
  }

  const models::Bert& bert_;
  const std::size_t largest_batch_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Request> waiting_;
  bool stop_ = false;
  std::thread worker_;  // last, as it uses all of the above
};

int main() {
  const models::Builder builder(/*seed=*/3);
  const models::Bert bert(
      builder,
      {.vocabulary = 100, .max_tokens = 16, .encoder = {.width = 32, .layers = 2, .heads = 4, .mlp_width = 64}});
  builder.set_training(false);  // no dropout; and no tape is active, so nothing is kept
  std::vector<std::vector<std::int32_t>> texts;
  for (std::int32_t i = 0; i < 80; ++i) texts.emplace_back(static_cast<std::size_t>(1 + i % 16), i);

  EmbeddingServer server(bert, /*largest_batch=*/16);
  std::vector<std::vector<float>> answers(texts.size());
  std::vector<std::thread> clients;
  for (std::size_t client = 0; client < 4; ++client) {
    clients.emplace_back([&, client] {
      for (std::size_t i = client; i < texts.size(); i += 4) answers[i] = server.embed(texts[i]).get();
    });
  }
  for (std::thread& client : clients) client.join();

  double largest = 0;  // padding and neighbours change rounding alone
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto alone =
        ops::l2_normalize(bert(models::TokenBatch::pad(std::span(&texts[i], 1)))).value().to_vector<float>();
    for (std::size_t j = 0; j < alone.size(); ++j)
      largest = std::max(largest, std::abs(double{alone[j]} - answers[i][j]));
  }
  std::printf("%zu answers, each as by itself: %s\n", answers.size(), largest < 1e-5 ? "yes" : "no");
  try {
    server.embed({1, 2, 100}).get();
  } catch (const ValueError& error) {
    std::printf("%s\n", error.what());
  }
  std::printf("and it goes on: %zu numbers\n", server.embed({1, 2, 3}).get().size());
}
