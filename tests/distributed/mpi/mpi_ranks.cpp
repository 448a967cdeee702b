// One rank of a group that an MPI launcher started. The argument names what it does; mpi_test.py says what must come of
// it.
#include <mpi.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "require.h"
#include "tapecache/distributed/mpi.h"

namespace {

using namespace tapecache;
using namespace std::chrono_literals;
using distributed::CommunicationError;
using distributed::Communicator;
using distributed::mpi_world;
using distributed::Reduction;
using test::require;

using Counts = std::vector<std::int64_t>;

std::int64_t before(const Counts& counts, int rank) {
  return std::accumulate(counts.begin(), counts.begin() + rank, std::int64_t{0});
}

std::int64_t own(const Counts& counts, const Communicator& ranks) {
  return counts[static_cast<std::size_t>(ranks.rank())];
}

/// Bytes that depend on where they are alone: of any type, not all of them numbers.
Tensor pattern(std::int64_t first_row, std::int64_t rows, std::int64_t width, DType dtype) {
  Tensor tensor = Tensor::empty({rows, width}, dtype);
  std::byte* const bytes = tensor.mutable_raw();
  const std::size_t begin = static_cast<std::size_t>(first_row * width) * size_of(dtype);
  for (std::size_t i = 0; i < tensor.bytes(); ++i) {
    const std::size_t value = (begin + i) * 2654435761u >> 7;
    bytes[i] = static_cast<std::byte>(dtype == DType::kBool ? value & 1 : value);
  }
  return tensor;
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         (a.numel() == 0 || std::memcmp(a.raw(), b.raw(), a.bytes()) == 0);
}

/// The values of a rank, which any rank can work out.
Tensor drawn(unsigned seed, const Shape& shape, DType dtype, int rank) {
  std::mt19937 engine(seed * 131 + static_cast<unsigned>(rank));
  if (dtype == DType::kInt64) {
    std::vector<std::int64_t> values(static_cast<std::size_t>(shape.numel()));
    for (auto& value : values) value = static_cast<std::int64_t>(engine()) << 20;
    return Tensor::from(values, shape);
  }
  std::vector<double> values(static_cast<std::size_t>(shape.numel()));
  std::uniform_real_distribution<double> draw(-1, 1);
  for (double& value : values) value = draw(engine);
  return Tensor::from(values, shape).to(dtype);
}

/// `found` joins the drawn values of all ranks, from `first` on.
void require_joined(const Tensor& found, unsigned seed, const Shape& shape, std::int64_t first, Reduction reduction,
                    int size) {
  Tensor expected = drawn(seed, shape, found.dtype(), 0).to(DType::kFloat64);
  double* const values = expected.mutable_data<double>();
  for (int rank = 1; rank < size; ++rank) {
    const Tensor more = drawn(seed, shape, found.dtype(), rank).to(DType::kFloat64);
    for (std::int64_t i = 0; i < shape.numel(); ++i) {
      const double other = more.data<double>()[i];
      values[i] = reduction == Reduction::kSum ? values[i] + other : std::max(values[i], other);
    }
  }
  const Tensor wide = found.to(DType::kFloat64);
  const double tolerance = found.dtype() == DType::kFloat32 && reduction == Reduction::kSum ? 1e-6 * size : 0;
  const double rounding = found.dtype() == DType::kFloat64 ? 1e-15 * size : tolerance;
  for (std::int64_t i = 0; i < found.numel(); ++i) {
    require(std::abs(wide.data<double>()[i] - values[first + i]) <= rounding, "joined values");
  }
}

/// Every rank has the same bits.
void require_alike(Communicator& ranks, const Tensor& values) {
  const Counts counts(static_cast<std::size_t>(ranks.size()), 1);
  Tensor all = Tensor::empty({ranks.size(), values.numel()}, values.dtype());
  const Tensor flat = values.reshape({1, values.numel()});
  ranks.all_gather(flat, all, counts);
  for (int rank = 0; rank < ranks.size(); ++rank) require(same_bytes(all.slice(rank, rank + 1), flat), "same bits");
}

void check_gather(Communicator& ranks, const Counts& counts, std::int64_t width, DType dtype) {
  const std::int64_t total = before(counts, ranks.size());
  Tensor all = Tensor::zeros({total, width}, dtype);
  ranks.all_gather(pattern(before(counts, ranks.rank()), own(counts, ranks), width, dtype), all, counts);
  require(same_bytes(all, pattern(0, total, width, dtype)), "gathered");
}

void check_reduce_scatter(Communicator& ranks, const Counts& counts, std::int64_t width, DType dtype, unsigned seed) {
  const Shape shape{before(counts, ranks.size()), width};
  Tensor rows = Tensor::zeros({own(counts, ranks), width}, dtype);
  ranks.reduce_scatter(drawn(seed, shape, dtype, ranks.rank()), rows, counts);
  require_joined(rows, seed, shape, before(counts, ranks.rank()) * width, Reduction::kSum, ranks.size());
}

void check_all_reduce(Communicator& ranks, std::int64_t elements, DType dtype, Reduction reduction, unsigned seed) {
  const Tensor given = drawn(seed, {elements}, dtype, ranks.rank());
  Tensor joined = given.clone(), again = given.clone();
  ranks.all_reduce(joined, reduction);
  ranks.all_reduce(again, reduction);
  require(same_bytes(joined, again), "the same each time");
  require_joined(joined, seed, {elements}, 0, reduction, ranks.size());
  require_alike(ranks, joined);
}

void check_broadcast(Communicator& ranks, std::int64_t elements, DType dtype, int root) {
  Tensor values = ranks.rank() == root ? pattern(0, 1, elements, dtype) : Tensor::zeros({1, elements}, dtype);
  ranks.broadcast(values, root);
  require(same_bytes(values, pattern(0, 1, elements, dtype)), "broadcast");
}

/// Blocks of another size each go round until each is at home again; one is empty.
void check_ring(Communicator& ranks, std::int64_t width, int step) {
  const int size = ranks.size();
  const auto block_of = [&](int rank) { return pattern(rank, rank % 3, width, DType::kBFloat16); };
  Tensor block = block_of(ranks.rank());
  for (int turn = 1; turn <= size; ++turn) {
    const int home = ((ranks.rank() - turn * step) % size + size) % size;
    Tensor next = Tensor::zeros({home % 3, width}, DType::kBFloat16);
    ranks.send_receive(block, (ranks.rank() + step) % size, next, ((ranks.rank() - step) % size + size) % size);
    require(same_bytes(next, block_of(home)), "ring");
    block = next;
  }
}

constexpr DType kAllTypes[] = {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16,
                               DType::kInt32,   DType::kInt64,   DType::kUInt8,   DType::kBool};
constexpr DType kAddable[] = {DType::kFloat32, DType::kFloat64, DType::kInt64};

void check_every_call(Communicator& ranks) {
  const int size = ranks.size();
  Counts uneven, first_alone(static_cast<std::size_t>(size), 0), none = first_alone;
  for (int r = 0; r < size; ++r) uneven.push_back((r * 3 + size + 1) % 5);
  first_alone[0] = 4;
  for (const Counts& counts : {uneven, first_alone, none, Counts(static_cast<std::size_t>(size), 2)}) {
    for (const DType dtype : kAllTypes) check_gather(ranks, counts, 7, dtype);
    for (const DType dtype : kAddable) check_reduce_scatter(ranks, counts, 5, dtype, 1);
    // Several pieces, the last one cut short.
    check_gather(ranks, counts, 400'003, DType::kBFloat16);
    check_reduce_scatter(ranks, counts, 200'003, DType::kFloat32, 2);
  }
  for (const std::int64_t elements : {0, 1, 3, 511, 512, 513, 1025, 4099, 50'003}) {
    for (const DType dtype : kAddable) {
      for (const Reduction reduction : {Reduction::kSum, Reduction::kMax}) {
        check_all_reduce(ranks, elements, dtype, reduction, 3);
      }
    }
    for (const DType dtype : kAllTypes) check_broadcast(ranks, elements, dtype, size - 1);
    for (int root = 0; root < size; ++root) check_broadcast(ranks, elements, DType::kFloat16, root);
  }
  check_all_reduce(ranks, 1'000'003, DType::kFloat32, Reduction::kSum, 4);
  check_broadcast(ranks, 3'000'001, DType::kUInt8, size / 2);
  for (int step = 0; step <= size; ++step) check_ring(ranks, 11, step);
  check_ring(ranks, 700'001, 1);
  const std::int64_t large = std::int64_t{1} << 62;
  Tensor sum = Tensor::from({large + ranks.rank()}, {1});
  ranks.all_reduce(sum);
  const auto wrapped = static_cast<std::uint64_t>(large) * static_cast<std::uint64_t>(size);
  require(sum.data<std::int64_t>()[0] == static_cast<std::int64_t>(wrapped) + size * (size - 1) / 2, "integers");
  ranks.barrier();
}

void check_agree(Communicator& ranks) {
  require(ranks.agree(0, "unheard").status == 0, "all well");
  const distributed::Agreed agreed =
      ranks.agree(ranks.rank() == 0 ? 0 : 2, std::string(3000, static_cast<char>('a' + ranks.rank())));
  if (ranks.size() == 1) require(agreed.status == 0, "alone");
  else require(agreed.status == 2 && agreed.rank == 1 && agreed.message == std::string(2000, 'b'), "worst");
  require(ranks.agree(0).message.empty(), "well again");
}

/// The same calls on every rank, drawn from one seed; each rank idles as long as it likes.
void check_random_calls(Communicator& ranks) {
  std::mt19937 calls(7), pauses(static_cast<unsigned>(ranks.rank()) + 1);
  const auto below = [&](int n) { return static_cast<int>(calls() % static_cast<unsigned>(n)); };
  for (unsigned seed = 0; seed < 200; ++seed) {
    if (pauses() % 16 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(pauses() % 8));
    Counts counts;
    for (int r = 0; r < ranks.size(); ++r) counts.push_back(below(3) == 0 ? 0 : below(40));
    const std::int64_t width = below(4) == 0 ? below(20'000) : below(40);
    const DType addable = kAddable[below(3)];
    switch (below(6)) {
      case 0:
        check_gather(ranks, counts, width, kAllTypes[below(8)]);
        break;
      case 1:
        check_reduce_scatter(ranks, counts, width, addable, seed);
        break;
      case 2:
        check_all_reduce(ranks, width, addable, below(2) == 0 ? Reduction::kSum : Reduction::kMax, seed);
        break;
      case 3:
        check_broadcast(ranks, width, kAllTypes[below(8)], below(ranks.size()));
        break;
      case 4:
        check_ring(ranks, width, below(ranks.size()));
        break;
      default:
        ranks.barrier();
        break;
    }
  }
}

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
  check_all_reduce(*ranks, 1000, DType::kFloat32, Reduction::kSum, 4);
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
