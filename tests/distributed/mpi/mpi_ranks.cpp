// One rank of a group that an MPI launcher started. The argument names what it does; mpi_test.py says what must come of
// it.
#include <mpi.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "../communicator_calls.h"
#include "tapecache/distributed/mpi.h"

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

/// More bytes than an int counts.
void large() {
  const auto ranks = mpi_world(500s);
  const std::int64_t width = (std::int64_t{1} << 31) / ranks->size() + 4097;
  const Counts counts(static_cast<std::size_t>(ranks->size()), 1);
  Tensor mine = Tensor::empty({1, width}, DType::kUInt8), all = Tensor::empty({ranks->size(), width}, DType::kUInt8);
  const auto value = [](int rank, std::int64_t i) { return static_cast<std::uint8_t>(i * 7 / 5 + rank * 31); };
  std::uint8_t* const out = mine.mutable_data<std::uint8_t>();
  for (std::int64_t i = 0; i < width; ++i) out[i] = value(ranks->rank(), i);
  ranks->all_gather(mine, all, counts);
  const std::uint8_t* const in = all.data<std::uint8_t>();
  for (int rank = 0; rank < ranks->size(); ++rank) {
    for (std::int64_t i = 0; i < width; ++i) require(in[rank * width + i] == value(rank, i), "large gather");
  }
  if (ranks->rank() == 0) std::printf("all right\n");
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
  try {
    const auto ranks = mpi_world(60s);
    if (rank == 0) std::printf("started\n");
  } catch (const CommunicationError& error) {
    if (rank == 0) std::printf("%s\n", error.what());
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
      {"throws", [] { fails([](Communicator&) { throw std::runtime_error("out of tea"); }); }},
      {"exits", [] { fails([](Communicator&) { std::exit(4); }); }},
      {"quits", [] { fails([](Communicator&) { _exit(4); }); }},
      {"killed", [] { fails([](Communicator&) { raise(SIGKILL); }); }},
      {"aborts", [] { fails([](Communicator&) { std::abort(); }); }},
      {"gives-up", gives_up},
      {"late", late},
      {"stopped", stopped},
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
