// Programs that end while the library computes: they end with the status that they gave, and soon.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include <tapecache/tapecache.h>

using namespace tapecache;

namespace {

constexpr int kStatus = 7;

double loss_of_a_step() {
  const Variable x(Tensor::full({64, 96}, 0.25));
  const Parameter weight("weight", Tensor::full({96, 96}, 0.01));
  Tape tape;
  Variable loss;
  {
    const Recording recording(tape);
    loss = ops::mean(ops::dropout(ops::matmul(x, weight), 0.5));
  }
  tape.backward(loss);
  return loss.value().item();
}

/// Computes when the program's static objects are destroyed, which is after the main thread's own.
struct ComputesLast {
  bool asked = false;
  ~ComputesLast() {
    if (asked && !(loss_of_a_step() > 0)) _exit(1);
  }
} computes_last;

void beside_threads_that_compute(int repeat) {
  static std::atomic<int> begun = 0;
  static std::vector<std::thread> others;
  for (int i = 0; i < 3; ++i) {
    others.emplace_back([] {
      for (;;) {
        loss_of_a_step();
        ++begun;
      }
    });
  }
  while (begun < 3) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::microseconds(repeat * 97));
  for (std::thread& other : others) other.detach();
  std::exit(kStatus);
}

void by_a_static_object(int) {
  loss_of_a_step();
  computes_last.asked = true;
  std::exit(kStatus);
}

/// The status that a child process ends with, or what else became of it as a negative number.
int status_of(void (*end)(int), int repeat) {
  const pid_t child = fork();
  if (child == 0) {
    set_thread_count(3);
    end(repeat);
  }
  for (int waited = 0; waited < 60'000; ++waited) {
    int status = 0;
    if (waitpid(child, &status, WNOHANG) == child) return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  return -1000;
}

}  // namespace

int main() {
  int wrong = 0;
  for (int repeat = 0; repeat < 20; ++repeat) {
    for (const auto& [name, end] : {std::pair("beside threads that compute", &beside_threads_that_compute),
                                    std::pair("by a static object", &by_a_static_object)}) {
      const int status = status_of(end, repeat);
      if (status == kStatus) continue;
      std::printf("%s, repeat %d: status %d, expected %d\n", name, repeat, status, kStatus);
      ++wrong;
    }
  }
  return wrong != 0;
}
