#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>
#include <thread>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "communicator_calls.h"
#include "ranks.h"
#include "tapecache/distributed/communicator.h"

namespace {

using namespace tapecache;
using distributed::CommunicationError;
using Reduction = distributed::Communicator::Reduction;
using namespace tapecache::testing;

const std::vector<int> kSizes = {1, 2, 3, 4, 7};

/// Rows of `width` values that say which they are.
Tensor numbered(std::int64_t first, std::int64_t rows, std::int64_t width, DType dtype) {
  std::vector<double> values(static_cast<std::size_t>(rows * width));
  std::iota(values.begin(), values.end(), static_cast<double>(first * width));
  return Tensor::from(values, {rows, width}).to(dtype);
}

/// Some of them none.
std::vector<std::int64_t> uneven_counts(int size) {
  std::vector<std::int64_t> counts;
  for (int r = 0; r < size; ++r) counts.push_back((r * 3 + size + 1) % 5);
  return counts;
}

std::int64_t before(const std::vector<std::int64_t>& counts, int rank) {
  return std::accumulate(counts.begin(), counts.begin() + rank, std::int64_t{0});
}

template <class T>
bool same(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.to_vector<T>() == b.to_vector<T>();
}

BOOST_AUTO_TEST_SUITE(communicator)

BOOST_AUTO_TEST_CASE(every_call_does_what_it_says) {
  for (const int size : {1, 2, 3, 4}) {
    run_in_threads(
        size,
        [](Communicator& ranks) {
          test::check_every_call(ranks);
          test::check_random_calls(ranks);
          test::check_agree(ranks);
        },
        kLimit);
  }
}

BOOST_AUTO_TEST_CASE(gathers_uneven_shares_of_every_type) {
  for (const int size : kSizes) {
    for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kInt64, DType::kUInt8}) {
      run_in_threads(
          size,
          [&](Communicator& ranks) {
            const std::vector<std::int64_t> counts = uneven_counts(size);
            const std::int64_t total = before(counts, size);
            const Tensor own =
                numbered(before(counts, ranks.rank()), counts[static_cast<std::size_t>(ranks.rank())], 3, dtype);
            Tensor all = Tensor::zeros({total, 3}, dtype);
            ranks.all_gather(own, all, counts);
            require(same<double>(all.to(DType::kFloat64), numbered(0, total, 3, dtype).to(DType::kFloat64)),
                    "gathered");
          },
          kLimit);
    }
  }
}

BOOST_AUTO_TEST_CASE(reduces_and_scatters_uneven_shares) {
  for (const int size : kSizes) {
    run_in_threads(
        size,
        [&](Communicator& ranks) {
          const std::vector<std::int64_t> counts = uneven_counts(size);
          const std::int64_t total = before(counts, size), own = counts[static_cast<std::size_t>(ranks.rank())];
          const Tensor all = numbered(0, total, 700, DType::kFloat64);
          Tensor rows = Tensor::zeros({own, 700}, DType::kFloat64);
          ranks.reduce_scatter(all, rows, counts);
          Tensor expected = numbered(before(counts, ranks.rank()), own, 700, DType::kFloat64);
          const Tensor once = expected.clone();
          for (int r = 1; r < size; ++r) expected.accumulate(once);
          require(same<double>(rows, expected), "scattered");
        },
        kLimit);
  }
}

BOOST_AUTO_TEST_CASE(sums_and_maxima_are_the_same_bits_on_every_rank_and_every_time) {
  for (const int size : kSizes) {
    std::vector<std::vector<float>> sums(static_cast<std::size_t>(size)), again = sums;
    for (auto* const into : {&sums, &again}) {
      run_in_threads(
          size,
          [&](Communicator& ranks) {
            std::vector<float> values(1501);
            for (std::size_t i = 0; i < values.size(); ++i) {
              values[i] = 1.0f / static_cast<float>(i + 1 + static_cast<std::size_t>(ranks.rank()) * 7);
            }
            Tensor sum = Tensor::from(values, {1501}), largest = sum.clone();
            ranks.all_reduce(sum);
            ranks.all_reduce(largest, Reduction::kMax);
            require(same<float>(largest, Tensor::from(
                                             [&] {
                                               std::vector<float> first(1501);
                                               for (std::size_t i = 0; i < first.size(); ++i)
                                                 first[i] = 1.0f / static_cast<float>(i + 1);
                                               return first;
                                             }(),
                                             {1501})),
                    "maxima");
            (*into)[static_cast<std::size_t>(ranks.rank())] = sum.to_vector<float>();
          },
          kLimit);
    }
    for (const auto& sum : sums) BOOST_TEST(sum == sums[0]);
    BOOST_TEST(sums == again);
  }
}

BOOST_AUTO_TEST_CASE(a_sum_keeps_a_nan_and_integers) {
  run_in_threads(
      3,
      [](Communicator& ranks) {
        Tensor values = Tensor::from({ranks.rank() == 1 ? std::numeric_limits<float>::quiet_NaN() : 1.0f, 2.0f}, {2});
        ranks.all_reduce(values);
        require(std::isnan(values.data<float>()[0]) && values.data<float>()[1] == 6, "NaN");
        const std::int64_t large = std::int64_t{1} << 60;
        Tensor integers = Tensor::from({large + ranks.rank()}, {1});
        ranks.all_reduce(integers);
        require(integers.data<std::int64_t>()[0] == 3 * large + 3, "integers");
      },
      kLimit);
}

BOOST_AUTO_TEST_CASE(sums_of_integers_wrap_around) {
  constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();
  run_in_threads(
      3,
      [](Communicator& ranks) {
        Tensor values = Tensor::from({kLargest, std::int64_t{-2} * ranks.rank()}, {2});
        ranks.all_reduce(values);
        // 3 (2^63 - 1) - 2^64 = 2^63 - 3.
        require(values.to_vector<std::int64_t>() == std::vector<std::int64_t>{kLargest - 2, -6}, "all_reduce");
        Tensor all = Tensor::from({kLargest, kLargest, kLargest}, {3}), own = Tensor::zeros({1}, DType::kInt64);
        ranks.reduce_scatter(all, own, std::vector<std::int64_t>{1, 1, 1});
        require(own.to_vector<std::int64_t>() == std::vector<std::int64_t>{kLargest - 2}, "reduce_scatter");
      },
      kLimit);
}

BOOST_AUTO_TEST_CASE(refuses_limits_and_counts_that_no_clock_or_number_holds) {
  using std::chrono::milliseconds;
  for (const int size : {1, 3}) {
    for (const milliseconds limit : {milliseconds(-1), milliseconds::min(), milliseconds::max(),
                                     milliseconds(std::chrono::hours(24 * 365)) + milliseconds(1)}) {
      BOOST_CHECK_EXCEPTION(run_in_threads(
                                size, [](Communicator& ranks) { ranks.barrier(); }, limit),
                            ValueError,
                            [](const ValueError& e) { return contains(e.what(), "run_in_threads: a limit of "); });
    }
    run_in_threads(
        size, [](Communicator& ranks) { ranks.barrier(); }, std::chrono::hours(24 * 365));
  }
  run_in_threads(2, [](Communicator& ranks) {
    Tensor all = Tensor::zeros({2}), own = Tensor::zeros({1});
    const std::int64_t large = std::int64_t{1} << 62;
    try {
      ranks.all_gather(own, all, std::vector<std::int64_t>{large, large});
      require(false, "no error");
    } catch (const ValueError& error) {
      require(contains(error.what(), "all_gather: the counts of rows together exceed 2^63 - 1"), error.what());
    }
  });
}

BOOST_AUTO_TEST_CASE(hands_out_and_round) {
  for (const int size : kSizes) {
    run_in_threads(
        size,
        [&](Communicator& ranks) {
          Tensor values = Tensor::full({4}, ranks.rank(), DType::kFloat64);
          ranks.broadcast(values, size - 1);
          require(values.to_vector<double>() == std::vector<double>(4, size - 1), "broadcast");
          // Blocks of another size each, until each is at home again.
          const auto rows = [&](int rank) { return static_cast<std::int64_t>((rank + size) % size); };
          Tensor block = Tensor::full({rows(ranks.rank()), 2}, ranks.rank(), DType::kFloat64);
          for (int turn = 1; turn <= size; ++turn) {
            const int from = (ranks.rank() - turn + size) % size;
            Tensor next = Tensor::zeros({rows(from), 2}, DType::kFloat64);
            ranks.send_receive(block, (ranks.rank() + 1) % size, next, (ranks.rank() - 1 + size) % size);
            require(same<double>(next, Tensor::full({rows(from), 2}, from, DType::kFloat64)), "ring");
            block = next;
          }
        },
        kLimit);
  }
}

BOOST_AUTO_TEST_CASE(none_leaves_a_barrier_before_all_have_come) {
  std::atomic<int> present{0};
  run_in_threads(
      4,
      [&](Communicator& ranks) {
        for (int round = 1; round <= 50; ++round) {
          ++present;
          ranks.barrier();
          require(present >= 4 * round, "barrier");
          ranks.barrier();
        }
      },
      kLimit);
}

BOOST_AUTO_TEST_CASE(agrees_on_the_worst_status_of_the_lowest_rank) {
  run_in_threads(
      4,
      [](Communicator& ranks) {
        require(ranks.agree(0, "unheard").status == 0, "all well");
        const std::vector<int> statuses = {0, 2, 1, 2};
        const distributed::Communicator::Agreed agreed = ranks.agree(
            statuses[static_cast<std::size_t>(ranks.rank())], std::string(3000, static_cast<char>('a' + ranks.rank())));
        require(agreed.status == 2 && agreed.rank == 1 && agreed.message == std::string(2000, 'b'), "worst");
        require(ranks.agree(0).message.empty(), "well again");
      },
      kLimit);
  run_in_threads(1, [](Communicator& alone) {
    const distributed::Communicator::Agreed agreed = alone.agree(3, "own");
    require(agreed.status == 3 && agreed.rank == 0 && agreed.message == "own", "alone");
  });
}

BOOST_AUTO_TEST_CASE(rank_0_does_what_one_is_to_do) {
  std::atomic<int> done{0};
  const auto count = [&] { ++done; };
  run_in_threads(
      3,
      [&](Communicator& ranks) {
        on_rank_0(ranks, count);
        require(done == 1, "done before all go on");
        ranks.barrier();
        try {
          on_rank_0(ranks, [] { throw FileError("the disk is full"); });
          require(false, "no error");
        } catch (const FileError&) {
          require(ranks.rank() == 0, "its own error");
        } catch (const Error& error) {
          require(std::string(error.what()) == "on_rank_0: the disk is full", error.what());
        }
      },
      kLimit);
}

BOOST_AUTO_TEST_CASE(a_group_of_one_runs_on_the_callers_thread) {
  const auto caller = std::this_thread::get_id();
  run_in_threads(1, [&](Communicator& alone) {
    require(std::this_thread::get_id() == caller, "thread");
    Tensor values = Tensor::full({3}, 2);
    alone.all_reduce(values);
    alone.barrier();
    require(values.to_vector<float>() == std::vector<float>(3, 2), "unchanged");
  });
}

/// What each of `size` ranks ended with: its exception's text, or nothing.
std::vector<std::string> endings(int size, std::chrono::milliseconds limit,
                                 const std::function<void(Communicator&)>& function) {
  std::vector<std::string> texts(static_cast<std::size_t>(size));
  try {
    run_in_threads(
        size,
        [&](Communicator& ranks) {
          try {
            function(ranks);
          } catch (const std::exception& error) {
            texts[static_cast<std::size_t>(ranks.rank())] = error.what();
            throw;
          }
        },
        limit);
  } catch (const std::exception&) {
  }
  return texts;
}

BOOST_AUTO_TEST_CASE(a_rank_that_throws_ends_the_others) {
  BOOST_CHECK_EXCEPTION(run_in_threads(
                            3,
                            [](Communicator& ranks) {
                              if (ranks.rank() == 1) throw ValueError("out of tea");
                              ranks.barrier();
                            },
                            kLimit),
                        ValueError, [](const ValueError& e) { return std::string(e.what()) == "out of tea"; });
  const auto texts = endings(3, kLimit, [](Communicator& ranks) {
    if (ranks.rank() == 1) throw ValueError("out of tea");
    ranks.barrier();
  });
  BOOST_TEST(texts[0] == "barrier (threads, rank 0 of 3): rank 1 gave up: out of tea");
  BOOST_TEST(texts[2] == "barrier (threads, rank 2 of 3): rank 1 gave up: out of tea");
}

BOOST_AUTO_TEST_CASE(a_late_rank_ends_all_within_the_limit) {
  const auto begun = std::chrono::steady_clock::now();
  const auto texts = endings(3, std::chrono::milliseconds(100), [](Communicator& ranks) {
    Tensor values = Tensor::zeros({2});
    if (ranks.rank() == 2) std::this_thread::sleep_for(std::chrono::milliseconds(1500));
    ranks.all_reduce(values);
  });
  BOOST_TEST((std::chrono::steady_clock::now() - begun < std::chrono::seconds(15)));
  for (const std::string& text : texts) {
    BOOST_TEST_CONTEXT(text) BOOST_TEST(contains(text, "has waited 100 ms in all_reduce for rank 2"));
  }
}

BOOST_AUTO_TEST_CASE(a_rank_that_returns_ends_those_that_wait) {
  const auto texts = endings(2, kLimit, [](Communicator& ranks) {
    if (ranks.rank() == 0) ranks.barrier();
  });
  BOOST_TEST(contains(texts[0], "rank 1 has returned"));
}

BOOST_AUTO_TEST_CASE(calls_that_do_not_fit_end_all) {
  const auto check = [](const std::string& expected, const std::function<void(Communicator&)>& function) {
    for (const std::string& text : endings(2, kLimit, function)) {
      BOOST_TEST_CONTEXT(text) BOOST_TEST(contains(text, expected));
    }
  };
  check("rank 1 calls all_reduce of float32 [1] on cpu, sum, but rank 0 barrier", [](Communicator& ranks) {
    Tensor values = Tensor::zeros({1});
    if (ranks.rank() == 0) ranks.barrier();
    else ranks.all_reduce(values);
  });
  check("rank 1 calls all_reduce of float32 [2] on cpu, sum, but rank 0 all_reduce of float32 [1] on cpu, sum",
        [](Communicator& ranks) {
          Tensor values = Tensor::zeros({ranks.rank() + 1});
          ranks.all_reduce(values);
        });
  check("is to receive 4 bytes from rank", [](Communicator& ranks) {
    Tensor sent = Tensor::zeros({2}), received = Tensor::zeros({1});
    ranks.send_receive(sent, 1 - ranks.rank(), received, 1 - ranks.rank());
  });
}

BOOST_AUTO_TEST_CASE(a_group_that_failed_stays_so) {
  const auto texts = endings(2, kLimit, [](Communicator& ranks) {
    ranks.barrier();
    require(ranks.failure().empty(), "well");
    ranks.barrier();
    if (ranks.rank() == 0) ranks.fail("no more");
    else
      while (ranks.failure().empty()) std::this_thread::yield();
    require(ranks.failure() == "rank 0 gave up: no more", "heard of");
    try {
      ranks.barrier();
    } catch (const CommunicationError& error) {
      require(error.call() == "barrier" && error.rank() == ranks.rank(), "error");
    }
    Tensor values = Tensor::zeros({1});
    ranks.broadcast(values, 0);
  });
  for (const std::string& text : texts) BOOST_TEST(contains(text, "rank 0 gave up: no more"));
}

/// Rank 1 is in one of its threads' calls, since rank 0 makes none, when the other makes its own.
BOOST_AUTO_TEST_CASE(a_second_call_beside_the_first_ends_the_group) {
  std::vector<std::string> of_threads(2);
  const auto texts = endings(2, kLimit, [&](Communicator& ranks) {
    const auto call = [&](std::size_t thread) {
      Tensor values = Tensor::zeros({2});
      try {
        if (thread == 0) ranks.all_reduce(values);
        else ranks.barrier();
      } catch (const CommunicationError& error) {
        of_threads[thread] = error.what();
      }
    };
    if (ranks.rank() == 1) {
      std::thread other(call, 1);
      call(0);
      other.join();
    } else {
      while (ranks.failure().empty()) std::this_thread::yield();
    }
    ranks.barrier();
  });
  for (const std::string& text : {texts[0], texts[1], of_threads[0], of_threads[1]}) {
    BOOST_TEST(contains(text, "another thread of this rank is in"), text);
  }
  BOOST_TEST(contains(texts[0], "rank 1 gave up: "), texts[0]);
}

BOOST_AUTO_TEST_CASE(refuses_what_a_rank_can_tell_to_be_wrong) {
  run_in_threads(1, [](Communicator& alone) {
    Tensor rows = Tensor::zeros({2, 3}), all = Tensor::zeros({2, 3}), other = Tensor::zeros({2, 4});
    const std::vector<std::int64_t> counts = {2}, wrong = {3}, negative = {-2}, two = {2, 0};
    BOOST_CHECK_THROW(alone.all_gather(rows, all, wrong), ShapeError);
    BOOST_CHECK_THROW(alone.all_gather(rows, other, counts), ShapeError);
    BOOST_CHECK_THROW(alone.all_gather(rows, all, negative), ValueError);
    BOOST_CHECK_THROW(alone.all_gather(rows, all, two), ValueError);
    BOOST_CHECK_THROW(alone.all_gather(rows, rows, counts), ValueError);
    Tensor undefined, bytes = Tensor::zeros({2}, DType::kUInt8), doubles = Tensor::zeros({2, 3}, DType::kFloat64);
    BOOST_CHECK_THROW(alone.all_gather(undefined, all, counts), ValueError);
    BOOST_CHECK_THROW(alone.all_gather(doubles, all, counts), DTypeError);
    BOOST_CHECK_THROW(alone.all_reduce(bytes), DTypeError);
    BOOST_CHECK_THROW(alone.broadcast(rows, 1), ValueError);
    BOOST_CHECK_THROW(alone.broadcast(rows, -1), ValueError);
    BOOST_CHECK_THROW(alone.send_receive(rows, 0, other, 0), ShapeError);
    BOOST_CHECK_THROW(alone.agree(-1), ValueError);
    alone.all_gather(rows, all, counts);
  });
  BOOST_CHECK_THROW(run_in_threads(0, [](Communicator&) {}), ValueError);
  BOOST_CHECK_THROW(run_in_threads(
                        1, [](Communicator&) {}, std::chrono::milliseconds(-1)),
                    ValueError);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
