#include "command_eval.h"

#include <algorithm>
#include <cstdio>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "progress.h"

namespace tapecache::program {

int run_eval(const EvalCommand& command) {
  const Pairs pairs = read_pairs(command.pairs, command.columns);
  const RetrievalTask task(pairs);
  const TextModel model(command.model.folder, command.model.text_model());
  require_texts(pairs.paths, pairs.source, model);
  std::optional<ImageEncoder> images;
  if (pairs.images) images.emplace(model.model(), command.model.images);
  const Evaluation found =
      evaluate(model, images ? &*images : nullptr, task, command.prefixes.of(model), command.model.embed());
  const RetrievalFigures& figures = found.forward;
  if (command.json) {
    nlohmann::ordered_json object{{"queries", figures.queries}, {"targets", figures.targets}};
    for (const auto& [name, value] : found.named()) object[name] = value;
    fmt::print("{}\n", object.dump());
  } else {
    fmt::print("{} {}, {} {}\n", figures.queries, images ? "images" : "queries", figures.targets,
               images ? "texts" : "targets");
    std::size_t width = 10;
    for (const auto& [name, value] : found.named()) width = std::max(width, name.size());
    for (const auto& [name, value] : found.named()) fmt::print("{:<{}} {:.4f}\n", name, width, value);
  }
  std::fflush(stdout);
  return kDone;
}

}  // namespace tapecache::program
