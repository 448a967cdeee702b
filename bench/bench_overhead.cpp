// What ops cost beside their arithmetic: ns an op on inputs of a few elements, where arithmetic is next to nothing,
// without and with a tape, and with its backward; beside PyTorch's, where its environment is there. And what they are
// made of.

#include <cmath>
#include <cstdio>
#include <exception>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "tapecache/core/files.h"
#include "tapecache/tapecache.h"

namespace {

using namespace tapecache;
using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

constexpr int kCalls = 32;  // of an op that are timed together, and on one tape

enum Mode { kForward, kRecorded, kBackward, kModes };
constexpr const char* kModeNames[] = {"forward", "recorded", "backward"};

struct Op {
  std::string name;
  Tensor x;
  std::function<Variable(const Variable&)> call;
};

Tensor values(const Shape& shape) {
  Tensor t = Tensor::empty(shape);
  float* p = t.mutable_data<float>();
  for (std::int64_t i = 0; i < t.numel(); ++i) p[i] = 0.01f * static_cast<float>(i % 50) - 0.2f;
  return t;
}

/// `worker_overhead.py` has the same ones.
std::vector<Op> ops_to_time() {
  const Tensor x = values({8, 16});
  const Parameter weight("w", values({16, 16})), bias("b", values({16})), gain("g", values({16})),
      table("t", values({10, 16}));
  const Tensor other = values({8, 16}), right = values({16, 16});
  const Tensor targets = Tensor::from({0, 3, 1, 2, 9, 15, 7, 4}, {8}),
               tokens = Tensor::from({0, 3, 1, 2, 9, 5, 7, 4}, {8});
  return {
      {"add", x, [=](const Variable& v) { return ops::add(v, other); }},
      {"multiply", x, [=](const Variable& v) { return ops::multiply(v, other); }},
      {"gelu", x, [](const Variable& v) { return ops::gelu(v); }},
      {"linear", x, [=](const Variable& v) { return ops::linear(v, weight, bias); }},
      {"matmul", x, [=](const Variable& v) { return ops::matmul(v, right); }},
      {"layer_norm", x, [=](const Variable& v) { return ops::layer_norm(v, gain, bias); }},
      {"softmax", x, [](const Variable& v) { return ops::softmax(v); }},
      {"l2_normalize", x, [](const Variable& v) { return ops::l2_normalize(v); }},
      {"dropout", x, [](const Variable& v) { return ops::dropout(v, 0.1); }},
      {"sum", x, [](const Variable& v) { return ops::sum(v, -1); }},
      {"reshape", x,
       [](const Variable& v) {
         return ops::reshape(v, {16, 8});
       }},
      {"slice", x, [](const Variable& v) { return ops::slice(v, 1, 0, 4); }},
      {"concat", x,
       [=](const Variable& v) {
         return ops::concat({v, other}, 0);
       }},
      {"cross_entropy", x, [=](const Variable& v) { return ops::cross_entropy(v, targets); }},
      {"embedding", values({}), [=](const Variable&) { return ops::embedding(table, tokens); }},
      {"attention", values({2, 4, 48}), [](const Variable& v) { return ops::attention(v, 2); }},
  };
}

/// Of kCalls: in a chain where the result has the shape of the input, else side by side.
double seconds_of(const Op& op, Mode mode) {
  const auto begin = Clock::now();
  if (mode == kForward) {
    for (int i = 0; i < kCalls; ++i) op.call(op.x);
    return std::chrono::duration<double>(Clock::now() - begin).count();
  }
  Tape tape;
  std::vector<Variable> outputs;
  {
    const Recording recording(tape);
    const Variable x = tape.leaf(op.x);
    for (int i = 0; i < kCalls; ++i) {
      Variable y = op.call(outputs.empty() || outputs.back().shape() != x.shape() ? x : outputs.back());
      if (y.shape() == x.shape()) outputs.clear();
      outputs.push_back(std::move(y));
    }
  }
  if (mode == kRecorded) return std::chrono::duration<double>(Clock::now() - begin).count();
  const std::vector<Tensor> seeds(outputs.size(), Tensor::full(outputs[0].shape(), 1.0));
  tape.backward(outputs, seeds);
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// The least of many trials, ns a call.
double least(int trials, int calls, const std::function<double()>& seconds) {
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < trials; ++i) best = std::min(best, seconds());
  return 1e9 * best / calls;
}

double timed(int calls, const std::function<void()>& call) {
  const auto begin = Clock::now();
  for (int i = 0; i < calls; ++i) call();
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

Json parts(int trials) {
  const auto measure = [&](const std::function<void()>& call) {
    return least(trials, 100, [&] { return timed(100, call); });
  };
  const auto two_blocks = [] {
    parallel_for(2, 1, [](std::int64_t, std::int64_t) {
      for (const auto end = Clock::now() + std::chrono::microseconds(5); Clock::now() < end;) {
      }
    });
  };
  const Variable variable = Parameter("p", values({8, 16}));
  return {
      {"Tensor::empty", measure([] {
         Tensor::empty({8, 16});
       })},
      {"copy of a Variable", measure([&] { const Variable copy = variable; })},
      {"parallel_for, 2 blocks of 5 us", measure(two_blocks)},
      {"parallel_for, the same after 1 ms of rest", least(trials / 10 + 1, 1,
                                                          [&] {
                                                            std::this_thread::sleep_for(std::chrono::milliseconds(1));
                                                            return timed(1, two_blocks);
                                                          })},
  };
}

Json measure(int threads, int trials) {
  set_thread_count(threads);
  Json ops;
  for (const Op& op : ops_to_time()) {
    for (int mode = 0; mode < kModes; ++mode) {
      ops[op.name][kModeNames[mode]] = least(trials, kCalls, [&] { return seconds_of(op, static_cast<Mode>(mode)); });
    }
  }
  return {{"ops", ops}, {"parts", parts(trials)}};
}

/// What `command` prints; empty where it fails.
std::string output_of(const std::string& command) {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), [](FILE* f) { return pclose(f); });
  std::string all;
  char buffer[4096];
  for (std::size_t got = 0; pipe && (got = std::fread(buffer, 1, sizeof(buffer), pipe.get())) > 0;)
    all.append(buffer, got);
  return all;
}

std::string peers_python() {
  const auto from = [](const char* name) { return std::getenv(name) ? std::string(std::getenv(name)) : std::string(); };
  const std::string cache = from("XDG_CACHE_HOME").empty() ? from("HOME") + "/.cache" : from("XDG_CACHE_HOME");
  const std::string folder = from("PEERS_VENV").empty() ? cache + "/tapecache/peers" : from("PEERS_VENV");
  return folder + "/bin/python";
}

/// Keeps the smaller one of each number.
void take_least(Json& best, const Json& found) {
  if (best.is_null()) best = found;
  else if (found.is_object())
    for (const auto& [key, value] : found.items()) take_least(best[key], value);
  else best = std::min(best.get<double>(), found.get<double>());
}

void print(int threads, const Json& ours, const Json& theirs) {
  fmt::print("{} thread{}, ns a call{}\n", threads, threads > 1 ? "s" : "",
             theirs.is_null() ? "" : ", and PyTorch eager's");
  fmt::print("{:14}", "");
  for (const char* mode : kModeNames) fmt::print(" {:>26}", mode);
  double logarithms[kModes] = {};
  for (const auto& [name, found] : ours["ops"].items()) {
    fmt::print("\n{:14}", name);
    for (int mode = 0; mode < kModes; ++mode) {
      const double own = found[kModeNames[mode]];
      if (theirs.is_null()) {
        fmt::print(" {:26.0f}", own);
        continue;
      }
      const double other = theirs[name][kModeNames[mode]];
      logarithms[mode] += std::log(own / other);
      fmt::print(" {:9.0f} {:9.0f} {:6.2f}", own, other, own / other);
    }
  }
  if (!theirs.is_null()) {
    fmt::print("\n{:14}", "geometric mean");
    for (const double sum : logarithms)
      fmt::print(" {:26.2f}", std::exp(sum / static_cast<double>(ours["ops"].size())));
  }
  fmt::print("\n");
  for (const auto& [name, found] : ours["parts"].items()) fmt::print("{:42} {:9.0f}\n", name, found.get<double>());
  fmt::print("\n");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("What ops cost beside their arithmetic");
  std::string file;
  int trials = 300, rounds = 3;
  std::vector<int> threads{1, 2};
  bool alone = false;
  app.add_option("--json", file, "file for the figures");
  app.add_option("--threads", threads, "numbers of threads")->check(CLI::Range(1, 1024))->capture_default_str();
  app.add_option("--trials", trials, "of which the least counts")->check(CLI::Range(1, 1000000))->capture_default_str();
  app.add_option("--rounds", rounds, "in which PyTorch and this take turns")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  app.add_flag("--alone", alone, "without PyTorch");
  CLI11_PARSE(app, argc, argv);
  try {
    Json report = Json::array();
    const std::string python = peers_python();
    if (!std::ifstream(python)) alone = true;
    for (const int count : threads) {
      Json ours, theirs;
      for (int round = 0; round < rounds; ++round) {
        take_least(ours, measure(count, trials));
        if (alone) continue;
        const std::string said =
            output_of(fmt::format("'{}' '{}' {} {} {}", python, PEER_SCRIPT, count, trials, kCalls));
        const Json found = Json::parse(said, nullptr, false);
        if (found.is_discarded()) throw std::runtime_error(fmt::format("{} did not answer: '{}'", PEER_SCRIPT, said));
        take_least(theirs, found);
      }
      print(count, ours, theirs);
      report.push_back({{"threads", count}, {"ours", ours}, {"pytorch", theirs}});
    }
    if (!file.empty()) write_file_atomically(file, report.dump(2) + "\n");
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_overhead: {}\n", error.what());
    return 1;
  }
}
