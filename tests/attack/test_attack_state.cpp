#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "attack.h"
#include "folder.h"
#include "gradcache_checks.h"
#include "tapecache/core/files.h"
#include "tapecache/models/pretrained.h"
#include "tapecache/train/checkpoint.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {

/// Two encoders, each with an optimiser, and a file of what they are to become.
struct Trained {
  Encoder one{10, DType::kFloat32, 0, 6, 20, 4}, other{20, DType::kFloat32, 0, 6, 20, 4};
  Tensor average = Tensor::zeros({20});
  train::AdamW adam;
  train::Sgd sgd;
  Folder folder;
  std::filesystem::path file;
  std::vector<Tensor> values, states;

  Trained() : adam(renamed(one, "one."), {}), sgd(renamed(other, "other."), {.momentum = 0.9}), file(folder / "model") {
    std::uint64_t seed = 50;
    for (Parameter p : parameters()) p.mutable_gradient() = random_values(p.value().shape(), ++seed, DType::kFloat32);
    adam.step(1e-2);
    for (const Parameter& p : parameters()) values.push_back(p.value().clone());
    for (const train::Optimizer* optimizer : optimizers()) {
      for (const auto& [name, tensor] : optimizer->state()) states.push_back(tensor.clone());
    }
  }

  static std::vector<Parameter> renamed(Encoder& encoder, const std::string& prefix) {
    std::vector<Parameter> all = encoder.parameters();
    for (Parameter& p : all) p.set_name(prefix + p.name());
    return all;
  }
  std::vector<Parameter> parameters() const { return joined({one.parameters(), other.parameters()}); }
  std::vector<Buffer> buffers() const { return {{"average", average}}; }
  std::vector<train::Optimizer*> optimizers() { return {&adam, &sgd}; }
  std::vector<const train::Optimizer*> optimizers() const { return {&adam, &sgd}; }

  void prepare() {
    begin_random_step(1, 1);
    average.fill(0.5);
    std::size_t i = 0;
    for (Parameter p : parameters()) p.mutable_value().copy_from(values[i++]);
    i = 0;
    for (const train::Optimizer* optimizer : optimizers()) {
      for (auto [name, tensor] : optimizer->state()) tensor.copy_from(states[i++]);
    }
  }
  void begin_with_old_file() {
    prepare();
    put(file, "what was there before");
  }
  /// Leaves values that are not those of the file.
  void disturb() {
    for (Parameter p : parameters()) p.mutable_value().fill(0.125);
    average.fill(0.125);
    for (const train::Optimizer* optimizer : optimizers()) {
      for (auto [name, tensor] : optimizer->state()) tensor.fill(1);
    }
  }

  void save() const {
    train::save_checkpoint(file, parameters(), std::as_const(*this).optimizers(),
                           {.step = 3, .seed = 4, .notes = {{"rate", "0.1"}}}, buffers());
  }
  double load() {
    const train::TrainingPosition position = train::load_checkpoint(file, parameters(), optimizers(), buffers());
    return static_cast<double>(position.step);
  }

  Work work(std::string name, std::function<void()> prepare, std::function<double()> run) {
    return {
        std::move(name), {parameters(), buffers(), optimizers(), folder.path()}, std::move(prepare), std::move(run)};
  }
};

/// All allocations of objects, each by itself, and those of tensors by themselves and within a limit.
void attack_load(const Work& work, std::int64_t least_objects, std::int64_t least_tensors) {
  BOOST_TEST(attack(work, Memory::kObjects) > least_objects);
  BOOST_TEST(attack(work, Memory::kTensors) > least_tensors);
  BOOST_TEST(attack(work, Memory::kTensorsWithinLimit) > least_tensors);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(attack_state)

BOOST_AUTO_TEST_CASE(a_checkpoint_of_two_optimisers) {
  Trained trained;
  BOOST_TEST(attack(trained.work(
                        "save_checkpoint", [&] { trained.begin_with_old_file(); }, [&] { return trained.save(), 0; }),
                    Memory::kObjects) > 100);
  attack_load(trained.work(
                  "load_checkpoint", [&] { trained.disturb(); }, [&] { return trained.load(); }),
              100, 5);
}

BOOST_AUTO_TEST_CASE(weights) {
  Trained trained;
  attack(trained.work(
             "save_weights", [&] { trained.begin_with_old_file(); },
             [&] { return models::save_weights(trained.file, trained.parameters()), 0; }),
         Memory::kObjects);
  const Work load = trained.work(
      "load_weights", [&] { trained.disturb(); },
      [&] { return models::load_weights(trained.file, trained.parameters()), 0; });
  attack_load(load, 50, 3);
  // Of another type, which are converted.
  SafetensorsFile halves;
  for (const Parameter& p : trained.parameters()) halves.tensors.emplace(p.name(), p.value().to(DType::kFloat16));
  write_safetensors(trained.file, halves);
  attack_load(load, 50, 3);
}

BOOST_AUTO_TEST_CASE(weights_that_are_mapped) {
  const Folder folder;
  const std::vector<Parameter> parameters{{"large", random_values({200, 100}, 1, DType::kFloat32)},
                                          {"small", random_values({3}, 2, DType::kFloat32)},
                                          {"last", random_values({100, 200}, 3, DType::kFloat32)}};
  models::save_weights(folder / "w", parameters);
  const auto begin = [&] {  // with memory of their own
    for (Parameter p : parameters) p.mutable_value() = Tensor::full(p.value().shape(), 0.125);
  };
  const Work load{"load_weights", {parameters, {}}, begin, [&] {
                    models::load_weights(folder / "w", parameters, {.memory_map = true});
                    return 0;
                  }};
  BOOST_TEST(attack(load, Memory::kObjects) > 20);
  for (const std::size_t i : {0, 2}) BOOST_TEST(parameters[i].value().is_wrapped());
}

BOOST_AUTO_TEST_CASE(the_state_of_an_optimiser) {
  Trained trained;
  trained.prepare();
  std::map<std::string, Tensor> given;
  for (const auto& [name, tensor] : trained.adam.state()) given.emplace(name, tensor.clone());
  BOOST_TEST(attack(trained.work(
                        "load_state", [&] { trained.disturb(); }, [&] { return trained.adam.load_state(given), 0; }),
                    Memory::kObjects) > 20);
}

BOOST_AUTO_TEST_CASE(steps_of_optimisers) {
  Trained trained;
  attack(trained.work(
             "AdamW", [&] { trained.prepare(); }, [&] { return trained.adam.step(1e-2), 0; }),
         Memory::kObjects);
  attack(trained.work(
             "SGD", [&] { trained.prepare(); }, [&] { return trained.sgd.step(1e-2), 0; }),
         Memory::kObjects);
}

BOOST_AUTO_TEST_SUITE_END()
