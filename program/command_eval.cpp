#include "command_eval.h"

#include <cstdio>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "progress.h"

namespace tapecache::program {

int run_eval(const EvalCommand& command) {
  const RetrievalTask task(read_pairs(command.pairs, command.columns));
  const TextModel model(command.model.folder, command.model.text_model());
  const RetrievalFigures figures = evaluate(model, task, command.prefixes.of(model), command.model.embed());
  if (command.json) {
    nlohmann::ordered_json object{{"queries", figures.queries}, {"targets", figures.targets}};
    for (const auto& [name, value] : figures.named()) object[name] = value;
    fmt::print("{}\n", object.dump());
  } else {
    fmt::print("{} queries, {} targets\n", figures.queries, figures.targets);
    for (const auto& [name, value] : figures.named()) fmt::print("{:<10} {:.4f}\n", name, value);
  }
  std::fflush(stdout);
  return kDone;
}

}  // namespace tapecache::program
