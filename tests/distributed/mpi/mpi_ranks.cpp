// One rank of a group that an MPI launcher started. The argument names what it does; mpi_test.py says what must come of
// it.
#include <mpi.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "../communicator_calls.h"
#include "tapecache/core/device.h"
#include "tapecache/distributed/mpi.h"

namespace {

std::atomic<bool> starved{false};  // all threads but the first
const std::thread::id first_thread = std::this_thread::get_id();

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t bytes) {
  void* const memory = starved && std::this_thread::get_id() != first_thread ? nullptr : std::malloc(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  try {
    return operator new(bytes);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using namespace tapecache;
using namespace std::chrono_literals;
using distributed::CommunicationError;
using distributed::Communicator;
using distributed::mpi_world;
using Reduction = distributed::Communicator::Reduction;
using namespace test;

void calls() {
  {
    const auto ranks = mpi_world(60s);
    require(ranks->name() == "mpi" && ranks->takes(Device::cpu()), "name");
    check_every_call(*ranks);
    check_agree(*ranks);
    check_random_calls(*ranks);
    try {
      mpi_world();
      require(false, "a second communicator");
    } catch (const ValueError&) {
    }
  }
  // Another one after the first.
  const auto ranks = mpi_world(60s);
  check_all_reduce(*ranks, Device::cpu(), 1000, DType::kFloat32, Reduction::kSum, 4);
  if (ranks->rank() == 0) std::printf("%d ranks, all right\n", ranks->size());
}

/// A message of more bytes than an int counts.
void large() {
  const auto ranks = mpi_world(120s);
  Tensor values = Tensor::zeros({(std::int64_t{1} << 28) + 4097}, DType::kInt64);
  std::int64_t* const numbers = values.mutable_data<std::int64_t>();
  const auto value = [](std::int64_t i) {
    return static_cast<std::int64_t>(static_cast<std::uint64_t>(i) * 0x9E3779B97F4A7C1u + 5);
  };
  if (ranks->rank() == 0) {
    for (std::int64_t i = 0; i < values.numel(); ++i) numbers[i] = value(i);
  }
  ranks->broadcast(values, 0);
  bool same = true;
  for (std::int64_t i = 0; i < values.numel(); ++i) same &= numbers[i] == value(i);
  require(same, "large broadcast");
  ranks->barrier();
  if (ranks->rank() == 0) std::printf("all right\n");
}

/// What the environment says, and what MPI finds.
void launched() {
  std::printf("launched: %d\n", distributed::mpi_launched() ? 1 : 0);
  const auto ranks = mpi_world(60s);
  std::printf("%d ranks, all right\n", ranks->size());
}

// --- a program that starts MPI itself ------------------------------------------------------------

void host(int asked) {
  int level = 0;
  MPI_Init_thread(nullptr, nullptr, asked, &level);
  require(level >= asked, "level");
  {
    const auto ranks = mpi_world(60s);
    check_every_call(*ranks);
    if (asked == MPI_THREAD_MULTIPLE) {
      int one = 1, sum = 0;
      MPI_Allreduce(&one, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
      require(sum == ranks->size(), "the program's own call");
    }
    check_agree(*ranks);
  }
  int one = 1, sum = 0, rank = 0;
  MPI_Allreduce(&one, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Finalize();
  if (rank == 0) std::printf("%d ranks, all right\n", sum);
}

void host_single() {
  int level = 0, rank = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SINGLE, &level);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  for (const char* const time : {"first", "second"}) {
    try {
      const auto ranks = mpi_world(60s);
      if (rank == 0) std::printf("%s: started\n", time);
    } catch (const CommunicationError& error) {
      if (rank == 0) std::printf("%s: %s\n", time, error.what());
    }
  }
  MPI_Finalize();
}

/// A rank is so late in each call that others ask it, and each other, what they do.
void waits() {
  const auto ranks = mpi_world(20s);
  const int rank = ranks->rank(), size = ranks->size();
  Tensor values = Tensor::full({3}, rank), all = Tensor::zeros({size, 3}), own = Tensor::zeros({1, 3});
  const Tensor rows = values.reshape({1, 3});
  const std::vector<std::int64_t> one_each(static_cast<std::size_t>(size), 1);
  const std::function<void()> calls[] = {
      [&] { ranks->barrier(); },
      [&] { ranks->all_gather(rows, all, one_each); },
      [&] { ranks->reduce_scatter(all, own, one_each); },
      [&] { ranks->send_receive(rows, (rank + 1) % size, own, (rank + size - 1) % size); },
      [&] { ranks->broadcast(values, 2); },
      [&] { ranks->all_reduce(values); },
  };
  for (const auto& call : calls) {
    if (rank == 1) std::this_thread::sleep_for(1200ms);
    call();
  }
  if (rank == 0) std::printf("%d ranks, all right\n", size);
}

// --- failures ------------------------------------------------------------------------------------

/// What rank 1 does while the others call; they have made one call before.
void fails(const std::function<void(Communicator&)>& rank_1) {
  const auto ranks = mpi_world(20s);
  ranks->barrier();
  if (ranks->rank() == 1) rank_1(*ranks);
  Tensor values = Tensor::zeros({3});
  ranks->all_reduce(values);
  std::printf("rank %d went on\n", ranks->rank());
}

/// What a rank learns, before anything ends its process.
void learns(Communicator& ranks, const std::function<void()>& call) {
  try {
    call();
    std::printf("rank %d went on\n", ranks.rank());
  } catch (const CommunicationError& error) {
    std::printf("%s\n", error.what());
    std::fflush(stdout);
    std::this_thread::sleep_for(1s);  // as long as others may need for their words
    throw;
  }
}

void gives_up() {
  const auto ranks = mpi_world(20s);
  ranks->barrier();
  if (ranks->rank() == 1) ranks->fail("out of tea");
  learns(*ranks, [&] { ranks->barrier(); });
}

constexpr std::chrono::milliseconds kShort = 2s;

void late() {
  const auto ranks = mpi_world(kShort);
  ranks->barrier();
  Tensor values = Tensor::zeros({3});
  if (ranks->rank() == 1) std::this_thread::sleep_for(100s);
  learns(*ranks, [&] { ranks->all_reduce(values); });
}

/// What was to be sent when rank 1 did not come, and is not needed any more.
void given_up() {
  const auto ranks = mpi_world(kShort);
  ranks->barrier();
  if (ranks->rank() == 1) std::this_thread::sleep_for(100s);
  Tensor values = Tensor::zeros({1 << 22});
  const std::size_t before = Device::cpu().memory_stats().current;
  learns(*ranks, [&] {
    try {
      ranks->all_reduce(values);
    } catch (const CommunicationError&) {
      values = Tensor();
      std::printf("%s\n",
                  Device::cpu().memory_stats().current < before ? "MPI reads what is gone" : "what MPI reads is kept");
      throw;
    }
  });
}

void stopped() {
  const auto ranks = mpi_world(kShort);
  ranks->barrier();
  Tensor values = Tensor::zeros({300'000});
  if (ranks->rank() == 1) raise(SIGSTOP);
  learns(*ranks, [&] { ranks->all_reduce(values); });
}

void other_call() {
  const auto ranks = mpi_world(20s);
  Tensor values = Tensor::zeros({3});
  learns(*ranks, [&] {
    if (ranks->rank() == 1) ranks->all_reduce(values);
    else ranks->barrier();
  });
}

void other_size() {
  const auto ranks = mpi_world(20s);
  Tensor values = Tensor::zeros({ranks->rank() == 1 ? 4 : 3});
  learns(*ranks, [&] { ranks->all_reduce(values); });
}

void other_block() {
  const auto ranks = mpi_world(20s);
  Tensor sent = Tensor::zeros({2}), received = Tensor::zeros({ranks->rank() == 1 ? 1 : 2});
  const int size = ranks->size(), rank = ranks->rank();
  learns(*ranks, [&] { ranks->send_receive(sent, (rank + 1) % size, received, (rank + size - 1) % size); });
}

void leaves() {
  auto ranks = mpi_world(20s);
  ranks->barrier();
  if (ranks->rank() == 1) {
    ranks.reset();
    return;
  }
  learns(*ranks, [&] { ranks->barrier(); });
}

/// Rank 1 has started MPI, and does not ask for a communicator.
void absent() {
  int level = 0, rank = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &level);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (rank == 1) std::this_thread::sleep_for(100s);
  for (int time = 0; time < 2; ++time) {
    try {
      mpi_world(kShort);
      std::printf("rank %d went on\n", rank);
    } catch (const CommunicationError& error) {
      std::printf("%s\n", error.what());
    }
  }
  std::fflush(stdout);
  std::this_thread::sleep_for(500ms);  // as long as others may need for their words
}

/// The rank of this process before MPI has begun.
int launched_rank() {
  const char* const rank = std::getenv("OMPI_COMM_WORLD_RANK");
  const char* const other = std::getenv("PMI_RANK");
  return std::atoi(rank ? rank : other ? other : "-1");
}

void late_to_begin() {
  if (launched_rank() == 1) std::this_thread::sleep_for(100s);
  const auto ranks = mpi_world(kShort);
  std::printf("rank %d went on\n", ranks->rank());
}

/// The communicator is over, and a rank does something else before it exits.
void late_to_end() {
  const auto rank = [] {
    const auto ranks = mpi_world(kShort);
    ranks->barrier();
    return ranks->rank();
  }();
  if (rank == 1) std::this_thread::sleep_for(100s);
  std::printf("rank %d exits\n", rank);
  std::exit(rank == 0 ? 7 : 0);
}

/// From here on rank 1's communication thread gets no memory: in a call, while others ask it, or when it leaves.
void starves(const std::string& when) {
  auto ranks = mpi_world(20s);
  ranks->barrier();
  const bool here = ranks->rank() == 1;
  if (here) {
    std::this_thread::sleep_for(1s);  // the others are through the barrier
    starved = true;
  }
  Tensor values = Tensor::zeros({3});
  if (when == "leave" && here) {
    ranks.reset();
    return;
  }
  if (when == "idle" && here) std::this_thread::sleep_for(3s);
  learns(*ranks, [&] { ranks->all_reduce(values); });
}

/// Another thread of rank 1 calls while a call runs.
void two_callers() {
  const auto ranks = mpi_world(20s);
  ranks->barrier();
  if (ranks->rank() == 0) std::this_thread::sleep_for(2s);
  std::thread other;
  if (ranks->rank() == 1) {
    other = std::thread([&] {
      std::this_thread::sleep_for(500ms);
      try {
        ranks->barrier();
      } catch (const CommunicationError& error) {
        std::printf("%s\n", error.what());
      }
    });
  }
  Tensor values = Tensor::zeros({3});
  try {
    ranks->all_reduce(values);
    std::printf("rank %d went on\n", ranks->rank());
  } catch (const CommunicationError& error) {
    std::printf("%s\n", error.what());
  }
  std::fflush(stdout);
  if (other.joinable()) other.join();
  std::this_thread::sleep_for(1s);
}

/// Whoever hears of the failure neither calls nor exits.
void stays() {
  const auto ranks = mpi_world(kShort);
  ranks->barrier();
  std::this_thread::sleep_for(500ms);  // until all have left it
  if (ranks->rank() == 1) ranks->fail("out of tea");
  for (;;) std::this_thread::sleep_for(1s);
}

/// A child that calls, and ends in its own way, is none of the group's business.
void forks() {
  auto ranks = mpi_world(20s);
  ranks->barrier();
  const pid_t child = fork();
  if (child == 0) {
    int status = 5;
    try {
      ranks->barrier();
    } catch (const CommunicationError&) {
      status = 0;
    }
    ranks.reset();
    std::exit(status);
  }
  int status = -1;
  waitpid(child, &status, 0);
  require(WIFEXITED(status) && WEXITSTATUS(status) == 0, "child");
  ranks->barrier();
  if (ranks->rank() == 0) std::printf("all right\n");
}

/// The program exits, well or not, in the middle of its work.
void exits(int status) {
  const auto ranks = mpi_world(20s);
  ranks->barrier();
  if (ranks->rank() == 0) std::printf("all right\n");
  std::exit(status);
}

}  // namespace

int main(int argc, char** argv) {
  const std::map<std::string, std::function<void()>> roles = {
      {"calls", calls},
      {"large", large},
      {"waits", waits},
      {"host", [] { host(MPI_THREAD_MULTIPLE); }},
      {"host-serialized", [] { host(MPI_THREAD_SERIALIZED); }},
      {"host-single", host_single},
      {"launched", launched},
      {"absent", absent},
      {"late-to-begin", late_to_begin},
      {"late-to-end", late_to_end},
      {"starves-call", [] { starves("call"); }},
      {"starves-idle", [] { starves("idle"); }},
      {"starves-leave", [] { starves("leave"); }},
      {"two-callers", two_callers},
      {"throws", [] { fails([](Communicator&) { throw std::runtime_error("out of tea"); }); }},
      {"exits", [] { fails([](Communicator&) { std::exit(4); }); }},
      {"quits", [] { fails([](Communicator&) { _exit(4); }); }},
      {"killed", [] { fails([](Communicator&) { raise(SIGKILL); }); }},
      {"aborts", [] { fails([](Communicator&) { std::abort(); }); }},
      {"gives-up", gives_up},
      {"late", late},
      {"stopped", stopped},
      {"given-up", given_up},
      {"other-call", other_call},
      {"other-size", other_size},
      {"other-block", other_block},
      {"leaves", leaves},
      {"stays", stays},
      {"forks", forks},
      {"exits-well", [] { exits(0); }},
      {"exits-ill", [] { exits(6); }},
  };
  const auto role = roles.find(argc == 2 ? argv[1] : "");
  if (role == roles.end()) return 2;
  try {
    role->second();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 3;
  }
}
