#include <mpi.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "tapecache/distributed/launched.h"
#include "tapecache/distributed/mpi.h"
#include "tapecache/distributed/mpi/collectives.h"
#include "tapecache/distributed/mpi/messenger.h"
#include "tapecache/distributed/mpi/process.h"
#include "tapecache/distributed/time_limit.h"

namespace tapecache::distributed {

namespace {

using detail::Bounds;
using detail::Messenger;

/// Sizes of the group, which its messenger's communicators have; of one process alone there is no messenger.
struct World {
  std::shared_ptr<Messenger> messenger;
  int rank = 0, size = 1;
};

bool lives = false;

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(World world, std::chrono::milliseconds limit)
      : Communicator(world.rank, world.size, limit), messenger_(std::move(world.messenger)) {
    lives = true;
  }

  ~MpiCommunicator() override {
    lives = false;
    // Of a child made by fork: its parent's.
    if (!messenger_ || !detail::is_own_process()) {
      new std::shared_ptr<Messenger>(std::move(messenger_));
      return;
    }
    try {
      if (std::uncaught_exceptions() > exceptions_) messenger_->fail("it leaves by an exception");
      detail::close_messenger(messenger_);
    } catch (...) {  // no memory for the words of a failure
    }
  }

  std::string name() const override { return "mpi"; }
  std::string failure() const override { return messenger_ ? messenger_->failure() : std::string(); }

  void fail(std::string_view why) noexcept override {
    if (messenger_ && detail::is_own_process()) messenger_->fail(why);
  }

 private:
  /// Where a call is given up, what it was to send stays in memory: MPI may still read it.
  template <class Work>
  void call(const char* name, std::string what, const Tensor& sent, Work work, int to = -1, std::size_t bytes = 0) {
    if (!detail::is_own_process()) {
      throw CommunicationError(name, "mpi", rank(), size(), "a child made by fork has no communicator");
    }
    try {
      messenger_->run({name, std::move(what), to, bytes}, work);
    } catch (const CommunicationError&) {
      new (std::nothrow) Tensor(sent);
      throw;
    }
  }

  static Bounds bounds(const Tensor& all, std::span<const std::int64_t> counts) {
    const std::size_t row = all.bytes() / static_cast<std::size_t>(all.size(0));
    Bounds found{0};
    for (const std::int64_t count : counts) found.push_back(found.back() + static_cast<std::size_t>(count) * row);
    return found;
  }

  std::size_t self() const { return static_cast<std::size_t>(rank()); }

  void do_all_gather(const Tensor& rows, Tensor& all, std::span<const std::int64_t> counts) override {
    const std::byte* const own = rows.raw();
    std::byte* const to = all.mutable_raw();
    const Bounds shares = bounds(all, counts);
    call("all_gather", fmt::format(" into {}, shares [{}]", describe(all), fmt::join(counts, ", ")), all, [&] {
      if (rows.numel() > 0) std::memcpy(to + shares[self()], own, rows.bytes());
      detail::gather(*messenger_, to, shares);
    });
  }

  void do_reduce_scatter(const Tensor& all, Tensor& rows, std::span<const std::int64_t> counts) override {
    const std::byte* const from = all.raw();
    std::byte* const own = rows.mutable_raw();
    const Bounds shares = bounds(all, counts);
    call("reduce_scatter", fmt::format(" of {}, shares [{}]", describe(all), fmt::join(counts, ", ")), all,
         [&] { detail::reduce_shares(*messenger_, from, shares, own, all.dtype(), Reduction::kSum); });
  }

  void do_all_reduce(Tensor& values, Reduction reduction) override {
    std::byte* const own = values.mutable_raw();
    const char* const kind = reduction == Reduction::kSum ? "sum" : "maximum";
    call("all_reduce", fmt::format(" of {}, {}", describe(values), kind), values,
         [&] { detail::reduce_all(*messenger_, own, values.bytes(), values.dtype(), reduction); });
  }

  void do_broadcast(Tensor& values, int root) override {
    std::byte* const own = values.mutable_raw();
    call("broadcast", fmt::format(" of {} from {}", describe(values), root), values,
         [&] { detail::hand_out(*messenger_, own, values.bytes(), root); });
  }

  void do_send_receive(const Tensor& sent, int to, Tensor& received, int from) override {
    const std::byte* const read = sent.raw();
    std::byte* const written = received.mutable_raw();
    const auto take = [&](std::size_t begin, const std::byte* piece, std::size_t bytes) {
      if (bytes > 0) std::memcpy(written + begin, piece, bytes);
    };
    call(
        "send_receive", "", sent,
        [&] {
          messenger_->transfer({read, sent.bytes(), to}, {received.bytes(), from, take}, true);
        },
        to, sent.bytes());
  }

  void do_barrier() override {
    call("barrier", "", Tensor(), [&] { detail::meet(*messenger_); });
  }

  std::shared_ptr<Messenger> messenger_;
  const int exceptions_ = std::uncaught_exceptions();
};

std::string mpi_library() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING + 1] = {};
  int length = 0;
  if (MPI_Get_library_version(text, &length) != MPI_SUCCESS) return "MPI";
  const std::string words(text);
  return words.starts_with("MPICH") ? "MPICH" : words.substr(0, words.find_first_of(",\n"));
}

/// By the launcher of another MPI each process would be one of one, and train alone.
void check_that_all_are_here(int found) {
  const detail::Launched launched = detail::launched();
  if (launched.processes <= found) return;
  throw ValueError(
      fmt::format("mpi_world: {} says that {} processes were started together, but {} found {}, expected a launcher of "
                  "that MPI: its own mpirun or mpiexec, or srun --mpi=pmix for Open MPI and srun --mpi=pmi2 for MPICH",
                  launched.variable, launched.processes, mpi_library(), found));
}

}  // namespace

bool mpi_launched() {
  const auto is_set = [](const char* name) { return std::getenv(name) != nullptr; };
  return is_set("OMPI_COMM_WORLD_SIZE") || is_set("PMI_SIZE") || is_set("PMI_RANK") || is_set("PMIX_RANK") ||
         detail::launched().processes > 1;
}

std::unique_ptr<Communicator> mpi_world(std::chrono::milliseconds limit) {
  detail::check_limit("mpi_world", limit);
  if (lives) throw ValueError("mpi_world: another communicator of MPI lives");
  World world;
  try {
    detail::start_mpi(limit);
    check_that_all_are_here(detail::place().size);
    world.messenger = detail::open_messenger(limit);
  } catch (const detail::Broken& broken) {
    const detail::Place place = detail::place();
    throw CommunicationError("mpi_world", "mpi", place.rank, place.size, broken.message);
  }
  world.rank = detail::place().rank;
  world.size = detail::place().size;
  return std::make_unique<MpiCommunicator>(std::move(world), limit);
}

}  // namespace tapecache::distributed
