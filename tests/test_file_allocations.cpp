// Every allocation that saving and loading make fails once. The operators below are those of the whole program, and of the
// library with it.
#include <malloc.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <new>
#include <string>
#include <vector>

#include "folder.h"
#include "train_checks.h"
#include "tapecache/core/error.h"
#include "tapecache/core/memory_scopes.h"
#include "tapecache/core/safetensors.h"
#include "tapecache/models/builder.h"
#include "tapecache/models/weights.h"
#include "tapecache/train/checkpoint.h"
#include "tapecache/train/optimizer.h"

namespace {

std::atomic<std::int64_t> until_failure{-1};  // allocations; below 0: none fails
std::atomic<std::int64_t> in_use{0}, most_in_use{0};

}  // namespace

void* operator new(std::size_t bytes) {
  if (until_failure.load(std::memory_order_relaxed) >= 0 && until_failure.fetch_sub(1) == 0) throw std::bad_alloc();
  void* const p = std::malloc(bytes ? bytes : 1);
  if (!p) throw std::bad_alloc();
  const std::int64_t now = in_use += static_cast<std::int64_t>(::malloc_usable_size(p));
  std::int64_t most = most_in_use;
  while (now > most && !most_in_use.compare_exchange_weak(most, now)) {
  }
  return p;
}
void* operator new[](std::size_t bytes) { return ::operator new(bytes); }
void operator delete(void* p) noexcept {
  if (p) in_use -= static_cast<std::int64_t>(::malloc_usable_size(p));
  std::free(p);
}
void operator delete(void* p, std::size_t) noexcept { ::operator delete(p); }
void operator delete[](void* p) noexcept { ::operator delete(p); }
void operator delete[](void* p, std::size_t) noexcept { ::operator delete(p); }

using namespace tapecache;
using namespace tapecache::testing;
using namespace tapecache::train;

namespace {

/// Calls `action` with its first allocation failing, its second and so on, until none fails, and gives how many did. What fails
/// must change nothing, which `unchanged` checks. Where one is done without it must end as otherwise, and `undo` is called.
template <class Action, class Unchanged, class Undo>
int fail_each_allocation(const Action& action, const Unchanged& unchanged, const Undo& undo) {
  const std::size_t before = allocator().stats().current;
  for (int at = 0;; ++at) {
    bool done = false;
    until_failure = at;
    try {
      action();
      done = true;
    } catch (const std::bad_alloc&) {
    } catch (const OutOfMemory&) {
    }
    if (until_failure.exchange(-1) >= 0) return at;
    BOOST_TEST(allocator().stats().current == before);
    if (done) undo();
    else unchanged(at);
  }
}

/// The same for the tensors' memory, of which there is more and more.
template <class Action, class Unchanged>
int fail_each_tensor(const Action& action, const Unchanged& unchanged) {
  const std::size_t before = allocator().stats().current;
  for (int failures = 0;; ++failures) {
    try {
      const MemoryLimit limit(before + 64 * static_cast<std::size_t>(failures + 1));
      action();
      return failures;
    } catch (const OutOfMemory&) {
    }
    unchanged(failures);
  }
}

struct State {
  std::vector<Parameter> parameters = some_parameters();
  AdamW matrices{{parameters[0], parameters[3]}, {}};
  Sgd rest{{parameters[1], parameters[2]}, {.momentum = 0.9}};
  std::vector<Optimizer*> both{&matrices, &rest};
  std::vector<Buffer> buffers{{"running_mean", vector_of({1, 2})}};

  explicit State(int t) {
    give_gradients(parameters, t);
    matrices.step(0.01);
    rest.step(0.1);
    buffers[0].value.fill(t);
  }
  void save(const std::filesystem::path& path) const {
    save_checkpoint(path, parameters, std::vector<const Optimizer*>{&matrices, &rest}, {.step = 3}, buffers);
  }
  /// What `all` gave.
  void take(const std::map<std::string, Tensor>& values) {
    for (const Optimizer* optimizer : both) {
      for (auto [name, tensor] : optimizer->state()) tensor.copy_from(values.at(name));
    }
    for (Parameter& p : parameters) p.mutable_value().copy_from(values.at("parameter " + p.name()));
    buffers[0].value.copy_from(values.at("buffer"));
  }
  std::map<std::string, Tensor> all() const {
    std::map<std::string, Tensor> all = copies(matrices.state());
    all.merge(copies(rest.state()));
    for (const Parameter& p : parameters) all.emplace("parameter " + p.name(), p.value().clone());
    all.emplace("buffer", buffers[0].value.clone());
    return all;
  }
};

}  // namespace

BOOST_FIXTURE_TEST_SUITE(file_allocations, Folder)

BOOST_AUTO_TEST_CASE(a_checkpoint_is_loaded_wholly_or_not_at_all) {
  const State good(1);
  good.save(*this / "c");
  const auto expected = good.all();
  State victim(2);
  const auto before = victim.all();
  BOOST_REQUIRE(!same(before, expected));
  const auto load = [&] { load_checkpoint(*this / "c", victim.parameters, victim.both, victim.buffers); };
  const auto unchanged = [&](int at) { BOOST_TEST(same(victim.all(), before), "failure " << at); };
  BOOST_TEST(fail_each_tensor(load, unchanged) > 5);
  BOOST_TEST(same(victim.all(), expected));
  victim.take(before);
  const auto undo = [&] {
    BOOST_TEST(same(victim.all(), expected));
    victim.take(before);
  };
  BOOST_TEST(fail_each_allocation(load, unchanged, undo) > 100);
  BOOST_TEST(same(victim.all(), expected));
}

BOOST_AUTO_TEST_CASE(an_optimisers_state_is_loaded_wholly_or_not_at_all) {
  const State good(1);
  State victim(2);
  const auto given = copies(good.matrices.state()), before = victim.all();
  const auto load = [&] { victim.matrices.load_state(given); };
  const auto unchanged = [&](int at) { BOOST_TEST(same(victim.all(), before), "failure " << at); };
  const auto undo = [&] {
    BOOST_TEST(same(victim.matrices.state(), given));
    victim.take(before);
  };
  BOOST_TEST(fail_each_allocation(load, unchanged, undo) > 20);
  BOOST_TEST(same(victim.matrices.state(), given));
}

BOOST_AUTO_TEST_CASE(weights_are_loaded_wholly_or_not_at_all) {
  SafetensorsFile file;
  for (const Parameter& p : some_parameters()) {
    file.tensors.emplace(p.name(), Tensor::full(p.value().shape(), 5, DType::kFloat16));
  }
  write_safetensors(*this / "w", file);
  const std::vector<Parameter> own = some_parameters();
  const auto before = copies(own);
  const auto load = [&] { models::load_weights(*this / "w", own); };
  const auto unchanged = [&](int at) { BOOST_TEST(same(own, before), "failure " << at); };
  const auto undo = [&] {
    for (std::size_t i = 0; i < own.size(); ++i) {
      check_equal(own[i].value(), std::vector<double>(static_cast<std::size_t>(own[i].value().numel()), 5));
      Parameter(own[i]).mutable_value().copy_from(before[i]);
    }
  };
  BOOST_TEST(fail_each_tensor(load, unchanged) > 3);
  undo();
  BOOST_TEST(fail_each_allocation(load, unchanged, undo) > 50);
  undo();
}

BOOST_AUTO_TEST_CASE(a_save_that_fails_leaves_the_file_before) {
  const State old(1), now(2);
  now.save(*this / "c");
  const std::string expected = contents(*this / "c");
  old.save(*this / "c");
  const std::string before = contents(*this / "c");
  const auto save = [&] { now.save(*this / "c"); };
  const auto unchanged = [&](int at) {
    BOOST_TEST((contents(*this / "c") == before), "failure " << at);
    BOOST_TEST(entries() == 1, "failure " << at);
  };
  const auto undo = [&] {
    BOOST_TEST((contents(*this / "c") == expected));
    BOOST_TEST(entries() == 1);
    old.save(*this / "c");
  };
  BOOST_TEST(fail_each_allocation(save, unchanged, undo) > 100);
  undo();
}

BOOST_AUTO_TEST_CASE(hostile_headers_take_little_memory) {
  const auto most_for = [&](const std::string& header, bool refused) {
    const std::uint64_t size = header.size();
    put(*this / "h", std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + header);
    const std::int64_t before = in_use;
    most_in_use = before;
    bool threw = false;
    try {
      const SafetensorsReader reader(*this / "h");
    } catch (const FileError&) {
      threw = true;
    }
    BOOST_TEST(threw == refused);
    return static_cast<double>(most_in_use - before) / static_cast<double>(header.size());
  };
  constexpr std::size_t kSize = 20 << 20;
  const auto repeated = [](std::string text, const std::string& piece, const std::string& end) {
    while (text.size() < kSize) text += piece;
    return text + end;
  };
  const auto numbered = [](const std::string& begin, const std::string& piece, const std::string& end) {
    std::string text = begin;
    for (int i = 0; text.size() < kSize; ++i) text += (i ? ",\"" : "\"") + std::to_string(i) + piece;
    return text + end;
  };
  BOOST_TEST(most_for(std::string(kSize, '['), true) <= 2);
  BOOST_TEST(most_for(repeated("", "{\"a\":", "1"), true) <= 2);
  BOOST_TEST(most_for(repeated("{\"a\":{\"b\":[0", ",[]", "]}}"), true) <= 2);
  BOOST_TEST(most_for(repeated("{\"a\":{\"shape\":[0", ",0", "]}}"), true) <= 2);
  BOOST_TEST(most_for(repeated("{\"a\":{\"b\":[0", ",0", "]}}"), true) <= 2);
  BOOST_TEST(most_for("{\"" + std::string(kSize, 'a') + "\":1}", true) <= 2);
  BOOST_TEST(most_for("{" + std::string(kSize, ' ') + "}", true) <= 2);
  BOOST_TEST(most_for("{}" + std::string(kSize, ' '), false) <= 2);
  BOOST_TEST(most_for(numbered("{\"__metadata__\":{", "\":\"\"", "}}"), true) <= 2);
  BOOST_TEST(most_for(numbered("{\"__metadata__\":{", "\":\"" + std::string(1 << 20, 'a') + "\"", "}}"), false) <= 2);
  BOOST_TEST(most_for(numbered("{", R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})", "}"), false) <= 2);
  BOOST_TEST(most_for(numbered("{", R"(":{"dtype":"","shape":[0,0,0,0,0,0,0,0],"data_offsets":[0,0]})", "}"), false) <= 2);
}

BOOST_AUTO_TEST_SUITE_END()
