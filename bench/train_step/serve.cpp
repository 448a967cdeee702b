#include "serve.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <fstream>
#include <iostream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tapecache/core/allocator.h"
#include "tapecache/core/error.h"
#include "tapecache/core/files.h"
#include "training.h"

namespace train_step {

using namespace tapecache;
using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

namespace {

/// A field of /proc/self/status, in bytes: VmRSS or, of all time, VmHWM.
std::size_t process_memory(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(field + ":")) return std::stoull(line.substr(field.size() + 1)) * 1024;
  }
  return 0;
}

/// Weights, inputs, the loss and the gradients, before any step.
void write_reference(Training& training, const std::string& path) {
  SafetensorsFile file;
  file.metadata.emplace("format", "pt");  // as save_weights
  for (const auto& [name, tensor] : training.workload->inputs) file.tensors["input." + name] = tensor;
  for (const Parameter& p : training.workload->parameters) {
    file.tensors["weight." + p.name()] = p.value().to(Device::cpu()).clone();
  }
  file.metadata["loss"] = fmt::format("{:.9g}", training.workload->loss_and_gradients());
  for (const Parameter& p : training.workload->parameters) {
    if (p.gradient().defined()) file.tensors["gradient." + p.name()] = p.gradient();
  }
  write_safetensors(path, file);
  training.optimizer.clear_gradients();
}

struct Norms {
  std::string name;
  double difference = 0, expected = 0;
};

Norms norms_of(const Parameter& parameter, const Tensor& expected) {
  const Tensor found = parameter.gradient().to(Device::cpu());
  const float *a = found.data<float>(), *b = expected.data<float>();
  double difference = 0, squares = 0;
  for (std::int64_t i = 0; i < expected.numel(); ++i) {
    difference += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    squares += static_cast<double>(b[i]) * b[i];
  }
  return {parameter.name(), std::sqrt(difference), std::sqrt(squares)};
}

Json compare(Training& training, const std::string& path) {
  const SafetensorsFile file = read_safetensors(path);
  const double expected = std::stod(file.metadata.at("loss")), loss = training.workload->loss_and_gradients();
  std::vector<Norms> all;
  double difference = 0, norm = 0;
  for (const Parameter& p : training.workload->parameters) {
    const auto reference = file.tensors.find("gradient." + p.name());
    if (reference == file.tensors.end()) continue;
    if (!p.gradient().defined() || p.gradient().shape() != reference->second.shape()) {
      throw ValueError(fmt::format("compare: {} has no gradient, or one of another shape", p.name()));
    }
    all.push_back(norms_of(p, reference->second));
    difference = std::hypot(difference, all.back().difference);
    norm = std::hypot(norm, all.back().expected);
  }
  training.optimizer.clear_gradients();
  std::string worst;
  double largest = 0;
  for (const Norms& n : all) {
    // Some, such as those of the keys' biases, are 0 but for rounding.
    const double own = n.difference / std::max(n.expected, 1e-3 * norm);
    if (own <= largest) continue;
    largest = own;
    worst = n.name;
  }
  return {{"loss", std::abs(loss - expected) / std::abs(expected)},
          {"gradient", difference / norm},
          {"worst", worst},
          {"worst_gradient", largest}};
}

}  // namespace

void serve(std::istream& requests, const std::string& name, const Setting& setting,
           const std::function<double()>& gemm_ceiling) {
  const std::size_t before = process_memory("VmRSS");
  Training training(name, setting);
  const auto answer_to = [&](const std::string& request, const std::string& argument) -> Json {
    if (request == "step") {
      const auto begin = Clock::now();
      const double loss = training.step(setting.device);
      return {{"seconds", std::chrono::duration<double>(Clock::now() - begin).count()}, {"loss", loss}};
    }
    if (request == "peak") {
      return {{"bytes",
               setting.device.is_cpu() ? process_memory("VmHWM") - before : allocator(setting.device).stats().peak}};
    }
    if (request == "flops") return {{"flops", training.workload->flops}, {"gemm_ceiling", gemm_ceiling()}};
    Json answer;
    if (request == "reference") {
      write_reference(training, argument);
      answer = {{"written", argument}};
    } else if (request == "compare") {
      answer = compare(training, argument);
    } else {
      throw ValueError(fmt::format("unknown request '{}'", request));
    }
    allocator(setting.device).reset_peak();
    return answer;
  };
  for (std::string line; std::getline(requests, line);) {
    const std::size_t space = line.find(' ');
    Json answer;
    try {
      answer = answer_to(line.substr(0, space), space == std::string::npos ? "" : line.substr(space + 1));
    } catch (const std::exception& error) {
      answer = {{"error", error.what()}};
    }
    std::cout << answer.dump(-1, ' ', false, Json::error_handler_t::replace) << std::endl;
  }
}

}  // namespace train_step
