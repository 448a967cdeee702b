#include "checks.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "tapecache/core/error.h"
#include "tapecache/core/parallel_for.h"
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

BOOST_FIXTURE_TEST_CASE(thread_counts_are_checked, ThreadCount) {
  for (const int count : {0, -1, 1025, std::numeric_limits<int>::max()}) {
    BOOST_CHECK_EXCEPTION(set_thread_count(count), ValueError,
                          says({"set_thread_count", std::to_string(count), "1", "1024"}));
  }
  BOOST_CHECK_EQUAL(thread_count(), previous);
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
    const RandomStateGuard guard;
    begin_random_step(1, 2);
    next_random_draw("f", 3);
  }
  BOOST_CHECK(random_state() == before);
  BOOST_CHECK_EQUAL(before.key.call, 1u);
}

BOOST_AUTO_TEST_CASE(draws_take_call_numbers) {
  begin_random_step(7, 8);
  random_state().first_sample = 5;
  const RandomDraw first = next_random_draw("f", 3);
  random_state().samples = 4;
  const RandomDraw second = next_random_draw("f", 12);
  BOOST_CHECK((first.key == RandomKey{7, 8, 0}));
  BOOST_CHECK_EQUAL(first.first_sample, 5);
  BOOST_CHECK_EQUAL(first.samples, 3);
  BOOST_CHECK((second.key == RandomKey{7, 8, 1}));
  BOOST_CHECK_EQUAL(second.samples, 4);
  BOOST_CHECK_EXCEPTION(next_random_draw("dropout", 6), ShapeError, says({"dropout:", "6", "4"}));
  BOOST_CHECK_EQUAL(random_state().key.call, 2u);
  begin_random_step(0, 0);
}

BOOST_AUTO_TEST_CASE(each_thread_has_its_own) {
  begin_random_step(7, 8);
  std::jthread([] { begin_random_step(1, 2); }).join();
  BOOST_CHECK((random_state() == RandomState{{7, 8, 0}, 0, 0}));
  begin_random_step(0, 0);
}

BOOST_AUTO_TEST_SUITE_END()
