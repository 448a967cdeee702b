#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "folder.h"
#include "tapecache/train/checkpoint.h"
#include "tapecache/train/optimizer.h"
#include "train_checks.h"

using namespace tapecache;
using namespace tapecache::testing;
using namespace tapecache::train;

namespace {

constexpr const char* kPath = "TAPECACHE_TEST_SAVE_TO";

/// Four megabytes, all of the value that the step has.
struct Saved {
  std::vector<Parameter> parameters{{"w", Tensor::zeros({1 << 18})}};
  AdamW optimizer{parameters};

  void save(const std::filesystem::path& path, std::int64_t step) {
    for (auto [name, tensor] : optimizer.state()) tensor.fill(static_cast<double>(step));
    Parameter(parameters[0]).assign(Tensor::full({1 << 18}, static_cast<double>(step)));
    save_checkpoint(path, parameters, optimizer, {.step = step});
  }
  /// Gives the step, or -1 where some of it is another step's.
  std::int64_t load(const std::filesystem::path& path) {
    const std::int64_t step = load_checkpoint(path, parameters, optimizer).step;
    const Tensor expected = Tensor::full({1 << 18}, static_cast<double>(step));
    bool whole = same_bits(parameters[0].value(), expected);
    for (const auto& [name, tensor] : optimizer.state()) {
      whole = whole && (tensor.rank() == 0 ? tensor.item() == static_cast<double>(step) : same_bits(tensor, expected));
    }
    return whole ? step : -1;
  }
};

/// This program again, as one that saves over and over until it is killed.
class Saver {
 public:
  explicit Saver(const std::filesystem::path& path) {
    ::setenv(kPath, path.c_str(), 1);
    std::string program = "/proc/self/exe", test = "--run_test=kills/saves_for_ever";
    char* arguments[] = {program.data(), test.data(), nullptr};
    BOOST_REQUIRE_EQUAL(::posix_spawn(&process_, program.c_str(), nullptr, nullptr, arguments, environ), 0);
    ::unsetenv(kPath);
  }
  ~Saver() { kill(); }
  Saver(const Saver&) = delete;
  Saver& operator=(const Saver&) = delete;

  /// Whether it ran until then.
  bool kill() {
    if (process_ == 0) return true;
    ::kill(process_, SIGKILL);
    int status = 0;
    ::waitpid(process_, &status, 0);
    process_ = 0;
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  }

 private:
  pid_t process_ = 0;
};

void wait_milliseconds(int count) { ::poll(nullptr, 0, count); }

}  // namespace

BOOST_AUTO_TEST_SUITE(kills)

/// Only for the program that is to be killed.
BOOST_AUTO_TEST_CASE(saves_for_ever, *boost::unit_test::disabled()) {
  const char* const path = std::getenv(kPath);
  if (!path) return;  // all of this suite were asked for by name
  Saved saved;
  for (std::int64_t step = 1;; ++step) saved.save(path, step);
}

BOOST_AUTO_TEST_CASE(a_kill_leaves_a_whole_checkpoint_and_the_next_save_cleans_up) {
  constexpr int kKills = 25;
  const Folder folder;
  const auto path = folder / "run.safetensors";
  std::mt19937 engine(std::random_device{}());
  Saved own;
  int leavings = 0, saves = 0;
  for (int kill = 0; kill < kKills; ++kill) {
    std::filesystem::remove(path);
    own.save(path, 0);
    {
      Saver saver(path);
      for (int waited = 0; own.load(path) == 0 && waited < 20'000; waited += 5) wait_milliseconds(5);
      wait_milliseconds(static_cast<int>(engine() % 40));
      BOOST_TEST(saver.kill());
    }
    const std::int64_t step = own.load(path);
    BOOST_TEST(step > 0);
    saves += step > 1;
    leavings += folder.entries() > 1;
    own.save(path, 1'000'000 + kill);
    BOOST_TEST(folder.entries() == 1);
    BOOST_TEST(own.load(path) == 1'000'000 + kill);
  }
  BOOST_TEST(saves > 0);
  BOOST_TEST(leavings > 0);  // else the kills came at no moment that matters
}

BOOST_AUTO_TEST_CASE(what_another_process_still_writes_is_let_be) {
  const Folder folder;
  const auto path = folder / "run.safetensors";
  Saved own;
  own.save(path, 0);
  {
    Saver first(path), second(path);
    // Each of them would end with an error, were its file taken from it.
    for (int i = 0; i < 60; ++i) {
      BOOST_TEST(own.load(path) >= 0);
      own.save(path, 2'000'000 + i);
    }
    BOOST_TEST(first.kill());
    BOOST_TEST(second.kill());
  }
  BOOST_TEST(own.load(path) >= 0);
  own.save(path, 1);
  BOOST_TEST(folder.entries() == 1);
}

BOOST_AUTO_TEST_SUITE_END()
