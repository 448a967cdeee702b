#include "checks.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cfenv>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "folder.h"
#include "tapecache/core/block_size.h"
#include "tapecache/core/captured_step.h"
#include "tapecache/core/error.h"
#include "tapecache/core/forward_context.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/core/processors.h"
#include "tapecache/core/random.h"

using namespace tapecache;
using namespace tapecache::testing;

BOOST_AUTO_TEST_SUITE(threads)

struct ThreadCount {
  int previous = thread_count();
  ~ThreadCount() { set_thread_count(previous); }
};

BOOST_FIXTURE_TEST_CASE(each_index_once, ThreadCount) {
  for (const int count : {1, 2, 3, 8}) {
    set_thread_count(count);
    BOOST_CHECK_EQUAL(thread_count(), count);
    for (const std::int64_t size : {0, 1, 5, 100, 1001}) {
      for (const std::int64_t block : {1, 7, 100, 5000}) {
        std::vector<std::atomic<int>> visits(static_cast<std::size_t>(size));
        std::atomic<bool> right_cuts = true;
        parallel_for(size, block, [&](std::int64_t begin, std::int64_t end) {
          if (begin % block != 0 || end != std::min(size, begin + block)) right_cuts = false;
          for (std::int64_t i = begin; i < end; ++i) ++visits[static_cast<std::size_t>(i)];
        });
        BOOST_CHECK(right_cuts);
        for (const auto& v : visits) BOOST_REQUIRE_EQUAL(v.load(), 1);
      }
    }
  }
}

BOOST_FIXTURE_TEST_CASE(no_block_for_no_work, ThreadCount) {
  parallel_for(0, 1, [](std::int64_t, std::int64_t) { BOOST_ERROR("called"); });
  parallel_for(-3, 1, [](std::int64_t, std::int64_t) { BOOST_ERROR("called"); });
}

BOOST_FIXTURE_TEST_CASE(exceptions_reach_the_caller, ThreadCount) {
  for (const int count : {1, 4}) {
    set_thread_count(count);
    std::atomic<int> running = 0;
    const auto body = [&](std::int64_t begin, std::int64_t) {
      ++running;
      std::this_thread::sleep_for(std::chrono::microseconds(100));
      --running;
      if (begin == 17) throw ValueError("of block 17");
    };
    BOOST_CHECK_EXCEPTION(parallel_for(100, 1, body), ValueError, says({"of block 17"}));
    BOOST_CHECK_EQUAL(running.load(), 0);
    std::atomic<int> after = 0;
    parallel_for(100, 1, [&](std::int64_t, std::int64_t) { ++after; });
    BOOST_CHECK_EQUAL(after.load(), 100);
  }
}

BOOST_FIXTURE_TEST_CASE(nested_work_is_done, ThreadCount) {
  set_thread_count(4);
  std::atomic<int> visits = 0;
  parallel_for(20, 1, [&](std::int64_t, std::int64_t) {
    const std::thread::id outer = std::this_thread::get_id();
    parallel_for(30, 1, [&](std::int64_t, std::int64_t) {
      if (std::this_thread::get_id() == outer) ++visits;
    });
  });
  BOOST_CHECK_EQUAL(visits.load(), 600);
}

BOOST_FIXTURE_TEST_CASE(callers_from_several_threads, ThreadCount) {
  set_thread_count(3);
  std::atomic<int> visits = 0;
  {
    std::vector<std::jthread> callers;
    for (int i = 0; i < 4; ++i) {
      callers.emplace_back([&] {
        for (int repeat = 0; repeat < 50; ++repeat) {
          parallel_for(40, 1, [&](std::int64_t, std::int64_t) { ++visits; });
        }
      });
    }
  }
  BOOST_CHECK_EQUAL(visits.load(), 4 * 50 * 40);
}

// More callers than regions that may be open at once, each of which finds its own work done when it returns.
BOOST_FIXTURE_TEST_CASE(more_callers_than_regions, ThreadCount) {
  set_thread_count(4);
  std::atomic<int> wrong = 0;
  {
    std::vector<std::jthread> callers;
    for (int i = 0; i < 12; ++i) {
      callers.emplace_back([&, i] {
        for (int repeat = 0; repeat < 100; ++repeat) {
          std::vector<int> mine(37, 0);
          parallel_for(37, 2, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t at = begin; at < end; ++at) mine[static_cast<std::size_t>(at)] += i + 1;
          });
          if (std::count(mine.begin(), mine.end(), i + 1) != 37) ++wrong;
        }
      });
    }
  }
  BOOST_CHECK_EQUAL(wrong.load(), 0);
}

// Every wait there is: workers that spin, that have just slept, and that slept for long.
BOOST_FIXTURE_TEST_CASE(regions_after_pauses_of_any_length, ThreadCount) {
  for (const int count : {2, 5}) {
    set_thread_count(count);
    int wrong = 0;
    for (int repeat = 0; repeat < 300; ++repeat) {
      std::array<int, 64> visits{};
      parallel_for(64, 1, [&](std::int64_t begin, std::int64_t) { ++visits[static_cast<std::size_t>(begin)]; });
      if (std::count(visits.begin(), visits.end(), 1) != 64) ++wrong;
      std::this_thread::sleep_for(std::chrono::microseconds(repeat % 30 * 10));
    }
    BOOST_CHECK_EQUAL(wrong, 0);
  }
}

BOOST_FIXTURE_TEST_CASE(helpers_take_part, ThreadCount) {
  set_thread_count(2);
  std::atomic<int> running = 0;
  std::atomic<bool> met = false;
  parallel_for(2, 1, [&](std::int64_t, std::int64_t) {
    ++running;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (running.load() < 2 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    if (running.load() == 2) met = true;
  });
  BOOST_CHECK(met);
}

BOOST_FIXTURE_TEST_CASE(the_count_stays_while_a_body_runs, ThreadCount) {
  set_thread_count(2);
  BOOST_CHECK_EXCEPTION(parallel_for(4, 1, [](std::int64_t, std::int64_t) { set_thread_count(3); }), Error,
                        says({"set_thread_count", "body"}));
  BOOST_CHECK_EQUAL(thread_count(), 2);
}

/// What a child process of fork() returns; -1 where it does not end by itself.
template <class Work>
int status_of_child(const Work& work) {
  const pid_t child = fork();
  if (child == 0) _exit(work());
  int status = 0;
  for (const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
       std::chrono::steady_clock::now() < end;) {
    if (waitpid(child, &status, WNOHANG) == child) return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  kill(child, SIGKILL);
  waitpid(child, &status, 0);
  return -1;
}

int sum_in_parallel() {
  std::atomic<int> visits = 0;
  for (int repeat = 0; repeat < 20; ++repeat) {
    parallel_for(5, 1, [&](std::int64_t, std::int64_t) { ++visits; });
  }
  return visits.load();
}

#if !defined(__SANITIZE_THREAD__)  // which refuses threads after a fork
BOOST_FIXTURE_TEST_CASE(a_child_process_computes, ThreadCount) {
  set_thread_count(3);
  BOOST_CHECK_EQUAL(sum_in_parallel(), 100);
  BOOST_CHECK_EQUAL(status_of_child(sum_in_parallel), 100);
  // From beside a thread that is within a region.
  std::atomic<bool> begun = false, ends = false;
  std::jthread other([&] {
    parallel_for(3, 1, [&](std::int64_t, std::int64_t) {
      begun = true;
      while (!ends) std::this_thread::yield();
    });
  });
  while (!begun) std::this_thread::yield();
  BOOST_CHECK_EQUAL(status_of_child(sum_in_parallel), 100);
  ends = true;
}
#endif

#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)  // whose own memory is beyond any limit
BOOST_FIXTURE_TEST_CASE(threads_that_cannot_be_created, ThreadCount) {
  set_thread_count(3);
  const int found = status_of_child([] {
    rlimit limit{};
    getrlimit(RLIMIT_AS, &limit);
    limit.rlim_cur = std::size_t{1} << 30;  // in which not every stack finds room
    if (setrlimit(RLIMIT_AS, &limit) != 0) return 1;
    set_thread_count(1024);
    return sum_in_parallel();
  });
  BOOST_CHECK_EQUAL(found, 100);
}
#endif

#if !defined(__SANITIZE_THREAD__)
// As in a container with a limit of processes.
BOOST_FIXTURE_TEST_CASE(threads_that_the_system_refuses, ThreadCount) {
  set_thread_count(3);
  const auto count = [](int wanted) {
    // The limit is not for who is root.
    if (getuid() == 0 && setuid(65534) != 0) return 1;
    const rlimit none{.rlim_cur = 1, .rlim_max = 1};
    if (setrlimit(RLIMIT_NPROC, &none) != 0) return 2;
    try {
      std::jthread([] {});
      return 3;
    } catch (const std::system_error&) {
      set_thread_count(wanted);
      return sum_in_parallel();
    }
  };
  BOOST_CHECK_EQUAL(status_of_child([&] { return count(3); }), 100);
  BOOST_CHECK_EQUAL(status_of_child([&] { return count(8); }), 100);
}
#endif

#if defined(__SSE__) || defined(__aarch64__)
struct Rounding {
  int previous = std::fegetround();
  ~Rounding() { std::fesetround(previous); }
};

// A result may not depend on which thread computes it, nor on the mode that was in force when the threads were made.
BOOST_FIXTURE_TEST_CASE(blocks_are_rounded_as_their_caller_rounds, ThreadCount) {
  const Rounding guard;
  set_thread_count(4);
  volatile float one = 1, three = 3;
  for (const int mode : {FE_UPWARD, FE_DOWNWARD, FE_TONEAREST}) {
    std::fesetround(mode);
    const float expected = one / three;
    std::atomic<int> wrong = 0;
    for (int repeat = 0; repeat < 50; ++repeat) {
      parallel_for(16, 1, [&](std::int64_t, std::int64_t) {
        if (const float quotient = one / three; quotient != expected) ++wrong;
        std::this_thread::sleep_for(std::chrono::microseconds(20));
      });
    }
    BOOST_CHECK_EQUAL(wrong.load(), 0);
  }
}
#endif

thread_local bool is_a_worker = true;

// What a handler may do, such as to look at its thread's own state, is the program's to know.
BOOST_FIXTURE_TEST_CASE(signals_go_to_threads_of_the_program, ThreadCount) {
  is_a_worker = false;
  set_thread_count(previous == 4 ? 5 : 4);
  std::atomic<int> others = 0;
  std::atomic<bool> open = false;
  const auto look = [&](std::int64_t, std::int64_t) {
    if (is_a_worker) {
      sigset_t set;
      pthread_sigmask(SIG_SETMASK, nullptr, &set);
      if (!sigismember(&set, SIGTERM) || !sigismember(&set, SIGUSR1) || sigismember(&set, SIGSEGV)) open = true;
      ++others;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  };
  for (int repeat = 0; repeat < 1000 && others == 0; ++repeat) parallel_for(8, 1, look);
  BOOST_CHECK_GT(others.load(), 0);
  BOOST_CHECK(!open);
  sigset_t set;
  pthread_sigmask(SIG_SETMASK, nullptr, &set);
  BOOST_CHECK(!sigismember(&set, SIGTERM));
}

BOOST_FIXTURE_TEST_CASE(thread_counts_are_checked, ThreadCount) {
  for (const int count : {0, -1, 1025, std::numeric_limits<int>::max()}) {
    BOOST_CHECK_EXCEPTION(set_thread_count(count), ValueError,
                          says({"set_thread_count", std::to_string(count), "1", "1024"}));
  }
  BOOST_CHECK_EQUAL(thread_count(), previous);
}

BOOST_AUTO_TEST_CASE(control_groups_limit_the_processors) {
  const Folder folder;
  namespace fs = std::filesystem;
  const auto limit = [&](const std::string& memberships) {
    put(folder / "cgroup", memberships);
    return detail::cgroup_processors(folder / "cgroup", folder.path());
  };
  const auto group = [&](const std::string& path, const std::string& file, const std::string& text) {
    fs::create_directories(folder.path() / path);
    put(folder.path() / path / file, text);
  };
  BOOST_CHECK_EQUAL(limit("0::/a/b\n"), std::numeric_limits<double>::infinity());
  group("a", "cpu.max", "150000 100000\n");
  group("a/b", "cpu.max", "max 100000\n");
  BOOST_CHECK_EQUAL(limit("0::/a/b\n"), 1.5);
  group("a/b", "cpu.max", "50000 100000\n");
  BOOST_CHECK_EQUAL(limit("0::/a/b\n"), 0.5);
  BOOST_CHECK_EQUAL(limit("0::/of/the/host\n"), std::numeric_limits<double>::infinity());
  group("cpu", "cpu.cfs_quota_us", "300000\n");
  group("cpu", "cpu.cfs_period_us", "100000\n");
  BOOST_CHECK_EQUAL(limit("4:memory:/x\n3:cpu,cpuacct:/docker/1\n"), 3);
  BOOST_CHECK_EQUAL(limit("4:memory:/x\n3:cpuset:/\n"), std::numeric_limits<double>::infinity());
  group("cpu", "cpu.cfs_quota_us", "-1\n");
  BOOST_CHECK_EQUAL(limit("3:cpu:/\n"), std::numeric_limits<double>::infinity());
  BOOST_CHECK_GE(detail::usable_processors(), 1);
}

BOOST_AUTO_TEST_CASE(blocks_of_even_work) {
  BOOST_CHECK_EQUAL(block_for(1, 100), 100);
  BOOST_CHECK_EQUAL(block_for(30, 100), 3);
  BOOST_CHECK_EQUAL(block_for(1000, 100), 1);
  BOOST_CHECK_EQUAL(block_for(0, 100), 1);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(random_states)

BOOST_AUTO_TEST_CASE(a_guard_leaves_no_trace) {
  begin_random_step(7, 8);
  next_random_draw("f", 3);
  const RandomState before = random_state();
  {
    const ScopedValue random(random_state());
    begin_random_step(1, 2);
    next_random_draw("f", 3);
  }
  BOOST_CHECK(random_state() == before);
  BOOST_CHECK_EQUAL(before.key.call, 1u);
}

BOOST_AUTO_TEST_CASE(draws_take_call_numbers) {
  begin_random_step(7, 8);
  random_state().first_sample = 5;
  const RandomState first = next_random_draw("f", 3);
  random_state().samples = 4;
  const RandomState second = next_random_draw("f", 12);
  BOOST_CHECK((first.key == RandomKey{7, 8, 0}));
  BOOST_CHECK_EQUAL(first.first_sample, 5);
  BOOST_CHECK_EQUAL(first.samples, 3);
  BOOST_CHECK((second.key == RandomKey{7, 8, 1}));
  BOOST_CHECK_EQUAL(second.samples, 4);
  BOOST_CHECK_EXCEPTION(next_random_draw("dropout", 6), ShapeError, says({"dropout:", "6", "4"}));
  BOOST_CHECK_EQUAL(random_state().key.call, 2u);
  begin_random_step(0, 0);
}

BOOST_AUTO_TEST_CASE(an_empty_step_is_not_captured) {
  BOOST_CHECK_EXCEPTION(CapturedStep(Device::cpu(), {}), ValueError,
                        says({"captured step: the step is an empty function"}));
}

BOOST_AUTO_TEST_CASE(each_thread_has_its_own) {
  begin_random_step(7, 8);
  std::jthread([] { begin_random_step(1, 2); }).join();
  BOOST_CHECK((random_state() == RandomState{{7, 8, 0}, 0, 0}));
  begin_random_step(0, 0);
}

BOOST_AUTO_TEST_SUITE_END()
