#include "command_search.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tapecache/autograd/tape.h"
#include "tapecache/core/error.h"
#include "tapecache/core/files.h"
#include "tapecache/data/npy.h"
#include "tapecache/ops/linear.h"

namespace tapecache::program {

namespace {

Tensor read_index(const std::filesystem::path& path, std::int64_t width) {
  Tensor vectors =
      path.extension() == ".safetensors" ? SafetensorsReader(path).read("embeddings") : data::read_npy(path);
  if (!is_floating(vectors.dtype()) || vectors.rank() != 2 || vectors.size(0) < 1 || vectors.size(1) != width) {
    throw FileError(fmt::format("{}: holds {}, expected vectors of {} numbers, the model's, as tapecache embed writes",
                                path.string(), describe(vectors), width));
  }
  return vectors.to(DType::kFloat32);
}

/// Places of the largest scores, equal ones in their order; a NaN is the smallest.
std::vector<std::int64_t> best_of(const float* scores, std::int64_t count, std::int64_t top) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  const auto better = [scores](std::int64_t a, std::int64_t b) {
    const float x = std::isnan(scores[a]) ? -INFINITY : scores[a], y = std::isnan(scores[b]) ? -INFINITY : scores[b];
    return x > y || (x == y && a < b);
  };
  const auto end = order.begin() + std::min(top, count);
  std::partial_sort(order.begin(), end, order.end(), better);
  order.erase(end, order.end());
  return order;
}

/// A text on one line of the terminal.
std::string one_line(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return text;
}

}  // namespace

int run_search(const SearchCommand& command) {
  const TextModel model(command.model.folder, command.model.text_model());
  const Tensor index = model.comparable(read_index(command.index, model.model().info().width));
  std::vector<std::string> texts;
  if (!command.texts.empty()) {
    texts = read_texts(command.texts, command.columns);
    if (static_cast<std::int64_t>(texts.size()) != index.size(0)) {
      throw FileError(fmt::format("{}: holds {} texts, {} has {} vectors", command.texts.string(), texts.size(),
                                  command.index.string(), index.size(0)));
    }
  }
  EmbedOptions options = command.model.embed();
  options.prefix = command.prefix ? *command.prefix : model.prompt({"query"});
  const Tensor queries = model.comparable(model.embed(command.queries, options));
  const NoRecording no_tape;
  for (std::int64_t i = 0; i < queries.size(0); ++i) {
    const Tensor scores = ops::matmul(queries.slice(i, i + 1), index, {.transpose_b = true}).value();
    if (!command.json && queries.size(0) > 1)
      fmt::print("{}\n", one_line(command.queries[static_cast<std::size_t>(i)]));
    for (std::int64_t rank = 1; const std::int64_t row : best_of(scores.data<float>(), index.size(0), command.top)) {
      const double score = static_cast<double>(scores.data<float>()[row]);
      const std::string text = texts.empty() ? "" : texts[static_cast<std::size_t>(row)];
      if (command.json) {
        nlohmann::ordered_json line{
            {"query", command.queries[static_cast<std::size_t>(i)]}, {"rank", rank}, {"row", row}, {"score", score}};
        if (!texts.empty()) line["text"] = text;
        fmt::print("{}\n", line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
      } else {
        fmt::print("{:>4}  {:.4f}  {:>8}  {}\n", rank, score, row, one_line(text));
      }
      ++rank;
    }
  }
  std::fflush(stdout);
  return kDone;
}

}  // namespace tapecache::program
