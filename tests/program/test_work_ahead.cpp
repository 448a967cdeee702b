// What is done beside the program, and what happens where it fails.
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "work_ahead.h"

using tapecache::program::WorkAhead;

BOOST_AUTO_TEST_SUITE(work_ahead)

BOOST_AUTO_TEST_CASE(every_item_is_done_once) {
  for (const int threads : {1, 4}) {
    WorkAhead work(threads);
    for (int job = 0; job < 50; ++job) {
      std::vector<std::atomic<int>> done(97);
      work.start(97, [&done](std::int64_t i) { ++done[static_cast<std::size_t>(i)]; });
      work.finish();
      for (const auto& count : done) BOOST_REQUIRE(count == 1);
    }
    work.start(0, [](std::int64_t) { throw std::logic_error("no item"); });
    work.finish();
    work.finish();
  }
}

BOOST_AUTO_TEST_CASE(it_begins_before_it_is_asked_for) {
  WorkAhead work(1);
  std::atomic<bool> begun = false;
  work.start(1, [&](std::int64_t) { begun = true; });
  for (int i = 0; i < 2000 && !begun; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  BOOST_TEST(begun);
  work.finish();
}

BOOST_AUTO_TEST_CASE(the_first_failure_is_thrown) {
  WorkAhead work(3);
  for (int job = 0; job < 50; ++job) {
    work.start(100, [](std::int64_t i) {
      if (i >= 30) throw std::runtime_error(std::to_string(i));
    });
    BOOST_CHECK_EXCEPTION(work.finish(), std::runtime_error,
                          [](const std::exception& e) { return std::string(e.what()) == "30"; });
    std::atomic<int> done = 0;
    work.start(5, [&](std::int64_t) { ++done; });
    work.finish();
    BOOST_REQUIRE(done == 5);
  }
}

BOOST_AUTO_TEST_CASE(the_end_waits_for_what_has_begun) {
  std::atomic<int> running = 0;
  {
    WorkAhead work(2);
    work.start(1000, [&](std::int64_t) {
      ++running;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      --running;
    });
  }
  BOOST_TEST(running == 0);
}

BOOST_AUTO_TEST_SUITE_END()
