// NCCL's way through the library on the emulated device, by a library in NCCL's place whose ranks are threads.

#include <dlfcn.h>

#include <chrono>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "../cuda/cuda_device.h"
#include "../nccl_stand_in/stand_in.h"
#include "communicator_calls.h"
#include "ranks.h"
#include "tapecache/distributed/nccl/nccl_library.h"

using namespace tapecache;
using namespace tapecache::testing;
using namespace std::chrono_literals;
using distributed::CommunicationError;
using distributed::over_nccl;

namespace {

template <class Function>
Function* of_the_stand_in(const char* name) {
  void* const library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  void* const found = library != nullptr ? dlsym(library, name) : nullptr;
  if (found == nullptr) throw std::logic_error(std::string("libnccl.so.2 is not the stand-in: no ") + name);
  return reinterpret_cast<Function*>(found);
}

int live() { return of_the_stand_in<decltype(nccl_stand_in_live)>("nccl_stand_in_live")(); }
int ended() { return of_the_stand_in<decltype(nccl_stand_in_ended)>("nccl_stand_in_ended")(); }
int aborted() { return of_the_stand_in<decltype(nccl_stand_in_aborted)>("nccl_stand_in_aborted")(); }

/// A fault of a rank, until the scope ends.
class Fault {
 public:
  Fault(int rank, int calls, NcclFault fault) : rank_(rank) { set_(rank, calls, fault); }
  ~Fault() { set_(rank_, 0, kNcclWell); }
  Fault(const Fault&) = delete;
  Fault& operator=(const Fault&) = delete;

 private:
  decltype(nccl_stand_in_fault)* const set_ = of_the_stand_in<decltype(nccl_stand_in_fault)>("nccl_stand_in_fault");
  const int rank_;
};

constexpr std::chrono::milliseconds kShort = 1s;

using Function = std::function<void(Communicator& ranks)>;

void run_on_devices(int size, const Function& function, std::chrono::milliseconds limit = kLimit) {
  run_in_threads(
      size,
      [&](Communicator& threads) {
        const auto ranks = over_nccl(threads, kCuda);
        function(*ranks);
      },
      limit);
}

/// What each of `size` ranks ended with: its exception's text, or nothing.
std::vector<std::string> endings(int size, std::chrono::milliseconds limit, const Function& function) {
  std::vector<std::string> texts(static_cast<std::size_t>(size));
  const auto run = [&](Communicator& threads) {
    try {
      const auto ranks = over_nccl(threads, kCuda);
      function(*ranks);
    } catch (const std::exception& error) {
      texts[static_cast<std::size_t>(threads.rank())] = error.what();
      throw;
    }
  };
  try {
    run_in_threads(size, run, limit);
  } catch (const std::exception&) {
  }
  return texts;
}

Tensor ones(std::int64_t elements) { return Tensor::full({elements}, 1).to(kCuda); }

/// Ranks are threads, in which Boost.Test does not count.
template <class Expected>
bool throws(const std::function<void()>& call) {
  try {
    call();
  } catch (const Expected&) {
    return true;
  }
  return false;
}

/// Two calls of a rank, of which the second is the one that a fault is for.
void call_twice(Communicator& ranks) {
  Tensor values = ones(5);
  ranks.all_reduce(values);
  ranks.all_reduce(values);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(nccl)

BOOST_AUTO_TEST_CASE(every_call_does_what_it_says) {
  for (const int size : {1, 2, 3, 4}) {
    const int before = ended();
    run_on_devices(size, [](Communicator& ranks) {
      require(ranks.name() == "nccl" && ranks.takes(kCuda) && ranks.takes(Device::cpu()), "name");
      require(!ranks.takes(Device::cuda(1)), "the device of another rank");
      test::check_every_call(ranks, kCuda);
      test::check_random_calls(ranks, kCuda);
      test::check_random_calls(ranks);
      test::check_agree(ranks);
    });
    BOOST_TEST(ended() - before == (size == 1 ? 0 : size));
    BOOST_TEST(live() == 0);
  }
  BOOST_TEST(aborted() == 0);
}

BOOST_AUTO_TEST_CASE(a_call_comes_after_what_the_device_was_given) {
  run_on_devices(3, [](Communicator& ranks) {
    Tensor sum = Tensor::zeros({70'000}, DType::kFloat64, kCuda);
    for (int i = 0; i < 20; ++i) {
      sum.accumulate(Tensor::full({70'000}, ranks.rank() + 1, DType::kFloat64, kCuda));
      Tensor all = sum.clone();
      ranks.all_reduce(all);
      all.accumulate(all.clone());
      require(all.to(Device::cpu()).to_vector<double>() == std::vector<double>(70'000, 2 * 6 * (i + 1)), "sum");
    }
  });
}

BOOST_AUTO_TEST_CASE(calls_that_do_not_fit_end_all) {
  const auto check = [](const std::string& expected, const Function& function) {
    for (const std::string& text : endings(2, kLimit, function)) {
      BOOST_TEST_CONTEXT(text) BOOST_TEST(contains(text, expected));
    }
    BOOST_TEST(live() == 0);
  };
  check("rank 1 calls all_reduce of float32 [2], sum, but rank 0 all_reduce of float32 [1], sum",
        [](Communicator& ranks) {
          Tensor values = ones(ranks.rank() + 1);
          ranks.all_reduce(values);
        });
  check("rank 1 calls broadcast of float32 [1] from 0, but rank 0 all_reduce of float32 [1], maximum",
        [](Communicator& ranks) {
          Tensor values = ones(1);
          if (ranks.rank() == 0) ranks.all_reduce(values, distributed::Communicator::Reduction::kMax);
          else ranks.broadcast(values, 0);
        });
  check("but rank 0 barrier", [](Communicator& ranks) {
    Tensor values = ones(1);
    if (ranks.rank() == 0) ranks.barrier();
    else ranks.all_reduce(values);
  });
  check("is to receive 4 bytes from rank", [](Communicator& ranks) {
    Tensor sent = ones(2), received = ones(1);
    ranks.send_receive(sent, 1 - ranks.rank(), received, 1 - ranks.rank());
  });
}

BOOST_AUTO_TEST_CASE(a_rank_that_is_late_or_gives_up_is_named) {
  for (const std::string& text : endings(3, kShort, [](Communicator& ranks) {
         Tensor values = ones(2);
         if (ranks.rank() == 2) std::this_thread::sleep_for(3 * kShort);
         ranks.all_reduce(values);
       })) {
    BOOST_TEST_CONTEXT(text) BOOST_TEST(contains(text, "has waited 1000 ms in all_reduce for rank 2"));
  }
  const auto texts = endings(3, kLimit, [](Communicator& ranks) {
    Tensor values = ones(2);
    if (ranks.rank() == 1) throw ValueError("out of tea");
    ranks.all_reduce(values);
  });
  BOOST_TEST(texts[1] == "out of tea");
  for (const int rank : {0, 2}) {
    const std::string& text = texts[static_cast<std::size_t>(rank)];
    BOOST_TEST_CONTEXT(text) {
      BOOST_TEST(contains(text, "all_reduce (nccl, rank " + std::to_string(rank) + " of 3): "));
      BOOST_TEST(contains(text, "rank 1 gave up: out of tea"));
    }
  }
  BOOST_TEST(live() == 0);
}

BOOST_AUTO_TEST_CASE(what_nccl_reports_ends_all) {
  struct Row {
    NcclFault fault;
    std::string expected;
  };
  for (const Row& row :
       {Row{kNcclSystemError, "ncclGroupEnd: unhandled system error: socket: no route to host"},
        Row{kNcclRemoteError, "NCCL: remote process exited or there was a network error: the other end has closed"}}) {
    const Fault fault(1, 1, row.fault);
    const auto begun = std::chrono::steady_clock::now();
    const auto texts = endings(3, kLimit, call_twice);
    BOOST_TEST((std::chrono::steady_clock::now() - begun < 20s));
    BOOST_TEST(texts[1] == "all_reduce (nccl, rank 1 of 3): " + row.expected);
    for (const std::string& text : {texts[0], texts[2]}) {
      BOOST_TEST_CONTEXT(text) BOOST_TEST(contains(text, "rank 1 gave up: all_reduce: " + row.expected));
    }
    BOOST_TEST(live() == 0);
  }
}

BOOST_AUTO_TEST_CASE(a_call_that_hangs_ends_within_the_limit) {
  const Fault fault(0, 1, kNcclHangs);
  const auto begun = std::chrono::steady_clock::now();
  const auto texts = endings(2, kShort, call_twice);
  BOOST_TEST((std::chrono::steady_clock::now() - begun < 15s));
  for (const std::string& text : texts) {
    BOOST_TEST_CONTEXT(text) {
      BOOST_TEST(contains(text, "all_reduce (nccl, rank "));
      BOOST_TEST(contains(text, "it has not ended within 1000 ms, though all ranks came to it"));
    }
  }
  BOOST_TEST(live() == 0);
}

BOOST_AUTO_TEST_CASE(a_group_that_failed_stays_so) {
  const Fault fault(1, 0, kNcclSystemError);
  const auto texts = endings(2, kLimit, [](Communicator& ranks) {
    Tensor values = ones(3), host = Tensor::zeros({3});
    require(throws<CommunicationError>([&] { ranks.all_reduce(values); }), "the first call");
    try {
      ranks.all_reduce(values);
    } catch (const CommunicationError& error) {
      require(error.call() == "all_reduce" && error.rank() == ranks.rank(), error.what());
      require(!ranks.failure().empty(), "failure");
      require(throws<CommunicationError>([&] { ranks.all_reduce(host); }), "a call on the host");
      require(throws<CommunicationError>([&] { ranks.barrier(); }), "barrier");
      return;
    }
    throw std::logic_error("went on");
  });
  for (const std::string& text : texts) BOOST_TEST(text == "");
  BOOST_TEST(live() == 0);
}

BOOST_AUTO_TEST_CASE(a_rank_that_cannot_connect_ends_all) {
  const Fault fault(1, 0, kNcclNeverConnects);
  const auto begun = std::chrono::steady_clock::now();
  const auto texts = endings(3, kShort, [](Communicator& ranks) {
    while (ranks.failure().empty()) std::this_thread::sleep_for(1ms);
    ranks.barrier();
  });
  BOOST_TEST((std::chrono::steady_clock::now() - begun < 15s));
  BOOST_TEST(contains(texts[1], "over_nccl (nccl, rank 1 of 3): it has not ended within 1000 ms"));
  for (const std::string& text : {texts[0], texts[2]}) {
    BOOST_TEST_CONTEXT(text) BOOST_TEST(contains(text, "rank 1 gave up: over_nccl: it has not ended within 1000 ms"));
  }
  BOOST_TEST(live() == 0);
}

BOOST_AUTO_TEST_CASE(a_rank_without_its_device_is_told_of_to_all) {
  for (const Device wrong : {Device::cpu(), Device::cuda(7)}) {
    const std::string expected = wrong.is_cpu() ? "over_nccl: the device is cpu, expected one of CUDA"
                                                : "over_nccl: cuda:7 was asked for, and there is 1 CUDA device";
    run_in_threads(
        3,
        [&](Communicator& threads) {
          try {
            over_nccl(threads, threads.rank() == 1 ? wrong : kCuda);
            require(false, "a group without a device");
          } catch (const DeviceError& error) {
            require(error.what() == (threads.rank() == 1 ? expected : "over_nccl: rank 1: " + expected), error.what());
          }
          const auto ranks = over_nccl(threads, kCuda);  // the group goes on
          call_twice(*ranks);
        },
        kLimit);
  }
  BOOST_TEST(live() == 0);
}

BOOST_AUTO_TEST_CASE(what_a_rank_can_tell_to_be_wrong_leaves_the_group_as_it_was) {
  run_on_devices(2, [](Communicator& ranks) {
    const Tensor sent = ones(2);
    Tensor received = Tensor::zeros({2}), low = Tensor::zeros({2}, DType::kBFloat16, kCuda);
    const int other = 1 - ranks.rank();
    require(throws<DeviceError>([&] { ranks.send_receive(sent, other, received, other); }), "two devices");
    require(throws<DTypeError>([&] { ranks.all_reduce(low); }), "a sum of bf16");
    ranks.barrier();
  });
}

BOOST_AUTO_TEST_CASE(a_library_that_cannot_be_used_is_named) {
  using distributed::detail::load_nccl;
  BOOST_TEST(load_nccl("libnccl.so.2").version == "2.28.9");
  BOOST_TEST(load_nccl("libnccl.so.2").why_not == "");
  const auto absent = load_nccl("libnccl_that_is_not.so");
  BOOST_TEST(contains(absent.why_not, "libnccl_that_is_not.so"));
  BOOST_TEST(!absent.functions);
  const auto old = load_nccl("libnccl_old.so");
  BOOST_TEST(old.why_not == "libnccl_old.so is NCCL 2.8.4, expected at least 2.14.0");
  BOOST_TEST(!old.functions);
  const auto bare = load_nccl("libnccl_bare.so");
  BOOST_TEST(contains(bare.why_not, "libnccl_bare.so has no ncclGetErrorString, ncclGetLastError, ncclGetUniqueId, "));
  BOOST_TEST(contains(bare.why_not, "ncclRecv"));
  BOOST_TEST(bare.version == "2.28.9");
  BOOST_TEST(!bare.functions);
}

BOOST_AUTO_TEST_SUITE_END()
