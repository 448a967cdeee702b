#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tapecache/core/device_backend.h"
#include "tapecache/core/op_scope.h"
#include "tapecache/distributed/communicator.h"
#include "tapecache/distributed/exception_text.h"
#include "tapecache/distributed/nccl/nccl_group.h"
#include "tapecache/ops/cuda/capture.h"

namespace tapecache::distributed {

namespace {

using detail::Deadline;
using detail::NcclFailure;
using detail::NcclGroup;
using Sizes = std::vector<std::size_t>;

/// The same for the same text in every process, and never negative.
std::int64_t digest(std::string_view text) {
  std::uint64_t hash = 14695981039346656037u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return static_cast<std::int64_t>(hash >> 1);
}

/// As `describe` has it, but for the device, which is another one on each rank.
std::string form_of(const Tensor& tensor) {
  return fmt::format("{} {}", name(tensor.dtype()), to_string(tensor.shape()));
}

/// What each rank has, in units of which a row has so many.
Sizes sizes_of(std::span<const std::int64_t> counts, std::size_t row) {
  Sizes sizes;
  for (const std::int64_t count : counts) sizes.push_back(static_cast<std::size_t>(count) * row);
  return sizes;
}

/// Tensors of one device by NCCL, those of the host by the communicator below, by which the ranks meet before each call
/// of NCCL: that waits for ever for a rank that does not come, says nothing of who it is, and corrupts memory where
/// ranks call different things.
class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(Communicator& below, Device device, std::unique_ptr<NcclGroup> group)
      : Communicator(below.rank(), below.size(), below.limit()),
        below_(below),
        device_(device),
        group_(std::move(group)) {}

  ~NcclCommunicator() override {
    if (!group_ || std::uncaught_exceptions() > exceptions_ || !below_.failure().empty()) return;
    try {
      group_->finish(Deadline(limit()));
    } catch (...) {  // all calls are done; who waits for this rank learns from `below_`, or from the limit
    }
  }

  std::string name() const override { return "nccl"; }
  bool takes(Device device) const override { return device == device_ || below_.takes(device); }
  std::string failure() const override { return below_.failure(); }
  void fail(std::string_view why) noexcept override { below_.fail(why); }

 private:
  bool is_here(const Tensor& tensor) const { return tensor.device() == device_; }

  /// `meet` has the ranks come together, `work` is for NCCL.
  template <class Meet, class Work>
  void call(const char* name, Meet meet, Work work) {
    const OpScope op(name);
    kernels::cuda::require_no_capture("asks other ranks");
    const Deadline deadline(limit());
    try {
      meet();
      work(deadline);
    } catch (const CommunicationError& error) {
      throw CommunicationError(name, this->name(), rank(), size(), error.what());
    } catch (const NcclFailure& failure) {
      give_up(name, failure.message);
    } catch (...) {
      give_up(name, detail::exception_text());
    }
  }

  [[noreturn]] void give_up(const char* name, const std::string& why) {
    below_.fail(fmt::format("{}: {}", name, why));
    throw CommunicationError(name, this->name(), rank(), size(), why);
  }

  /// Of a call that is the same on every rank.
  void meet(const std::string& call) {
    const std::int64_t own = digest(call);
    std::int64_t ends[] = {own, -own};
    Tensor shared = Tensor::wrap(ends, {2});
    below_.all_reduce(shared, Reduction::kMax);
    if (ends[0] == -ends[1]) return;
    constexpr std::int64_t kText = 256;
    std::vector<std::uint8_t> texts(static_cast<std::size_t>(kText * size()));
    std::uint8_t text[kText] = {};
    std::memcpy(text, call.data(), std::min<std::size_t>(call.size(), kText - 1));
    Tensor all = Tensor::wrap(texts.data(), {size(), kText});
    below_.all_gather(Tensor::wrap(text, {1, kText}), all,
                      std::vector<std::int64_t>(static_cast<std::size_t>(size()), 1));
    const auto text_of = [&](int r) { return reinterpret_cast<const char*>(texts.data() + r * kText); };
    int other = 1;
    while (std::strcmp(text_of(other), text_of(0)) == 0 && other + 1 < size()) ++other;
    throw NcclFailure{fmt::format("rank {} calls {}, but rank 0 {}", other, text_of(other), text_of(0))};
  }

  /// Of a ring, in which each rank sends its own number of bytes.
  void meet_in_ring(std::size_t sent, int to, std::size_t wanted, int from) {
    auto own = static_cast<std::int64_t>(sent);
    std::int64_t others = 0;
    Tensor received = Tensor::wrap(&others, {1});
    below_.send_receive(Tensor::wrap(&own, {1}), to, received, from);
    const std::string wrong =
        static_cast<std::size_t>(others) == wanted
            ? ""
            : fmt::format("is to receive {} bytes from rank {}, which sends {}", wanted, from, others);
    const Agreed agreed = below_.agree(wrong.empty() ? 0 : 1, wrong);
    if (agreed.status != 0) throw NcclFailure{fmt::format("rank {} {}", agreed.rank, agreed.message)};
  }

  void do_all_gather(const Tensor& rows, Tensor& all, std::span<const std::int64_t> counts) override {
    if (!is_here(all)) return below_.all_gather(rows, all, counts);
    const std::byte* const own = rows.raw();
    std::byte* const to = all.mutable_raw();
    const Sizes bytes = sizes_of(counts, all.bytes() / static_cast<std::size_t>(all.size(0)));
    call(
        "all_gather",
        [&] { meet(fmt::format("all_gather into {}, shares [{}]", form_of(all), fmt::join(counts, ", "))); },
        [&](const Deadline& deadline) { group_->all_gather(deadline, own, to, bytes); });
  }

  void do_reduce_scatter(const Tensor& all, Tensor& rows, std::span<const std::int64_t> counts) override {
    if (!is_here(all)) return below_.reduce_scatter(all, rows, counts);
    const std::byte* const from = all.raw();
    std::byte* const own = rows.mutable_raw();
    const Sizes elements = sizes_of(counts, static_cast<std::size_t>(all.numel() / all.size(0)));
    call(
        "reduce_scatter",
        [&] { meet(fmt::format("reduce_scatter of {}, shares [{}]", form_of(all), fmt::join(counts, ", "))); },
        [&](const Deadline& deadline) { group_->reduce_scatter(deadline, from, own, elements, all.dtype()); });
  }

  void do_all_reduce(Tensor& values, Reduction reduction) override {
    if (!is_here(values)) return below_.all_reduce(values, reduction);
    std::byte* const own = values.mutable_raw();
    const auto elements = static_cast<std::size_t>(values.numel());
    const char* const kind = reduction == Reduction::kSum ? "sum" : "maximum";
    call(
        "all_reduce", [&] { meet(fmt::format("all_reduce of {}, {}", form_of(values), kind)); },
        [&](const Deadline& deadline) { group_->all_reduce(deadline, own, elements, values.dtype(), reduction); });
  }

  void do_broadcast(Tensor& values, int root) override {
    if (!is_here(values)) return below_.broadcast(values, root);
    std::byte* const own = values.mutable_raw();
    call(
        "broadcast", [&] { meet(fmt::format("broadcast of {} from {}", form_of(values), root)); },
        [&](const Deadline& deadline) { group_->broadcast(deadline, own, values.bytes(), root); });
  }

  void do_send_receive(const Tensor& sent, int to, Tensor& received, int from) override {
    if (!is_here(sent)) return below_.send_receive(sent, to, received, from);
    const std::byte* const read = sent.raw();
    std::byte* const written = received.mutable_raw();
    call(
        "send_receive", [&] { meet_in_ring(sent.bytes(), to, received.bytes(), from); },
        [&](const Deadline& deadline) {
          group_->send_receive(deadline, read, sent.bytes(), to, written, received.bytes(), from);
        });
  }

  void do_barrier() override { below_.barrier(); }

  Communicator& below_;
  const Device device_;
  const std::unique_ptr<NcclGroup> group_;  // null in a group of one
  const int exceptions_ = std::uncaught_exceptions();
};

/// Of what may fail on one rank alone: where it does, all throw.
void all_or_none(Communicator& ranks, const std::function<void()>& work) {
  std::string wrong;
  try {
    work();
  } catch (const Error& error) {
    wrong = error.what();
  }
  const Communicator::Agreed agreed = ranks.agree(wrong.empty() ? 0 : 1, wrong);
  if (!wrong.empty()) throw DeviceError(wrong);
  if (agreed.status != 0) throw DeviceError(fmt::format("over_nccl: rank {}: {}", agreed.rank, agreed.message));
}

std::unique_ptr<NcclGroup> join(Communicator& ranks, int device) {
  const detail::NcclLibrary& library = detail::nccl_library();
  ncclUniqueId id{};
  all_or_none(ranks, [&] {
    if (!library.functions) throw DeviceError(fmt::format("over_nccl: NCCL cannot be used: {}", library.why_not));
    if (ranks.rank() != 0) return;
    try {
      check_nccl(*library.functions, "ncclGetUniqueId", library.functions->get_unique_id(&id));
    } catch (const NcclFailure& failure) {
      throw DeviceError(fmt::format("over_nccl: {}", failure.message));
    }
  });
  Tensor shared = Tensor::wrap(reinterpret_cast<std::uint8_t*>(id.internal), {sizeof id.internal});
  ranks.broadcast(shared, 0);
  try {
    return std::make_unique<NcclGroup>(*library.functions, device, ranks.rank(), ranks.size(), id,
                                       Deadline(ranks.limit()), [&ranks] { return ranks.failure(); });
  } catch (const NcclFailure& failure) {
    ranks.fail(fmt::format("over_nccl: {}", failure.message));
    throw CommunicationError("over_nccl", "nccl", ranks.rank(), ranks.size(), failure.message);
  }
}

}  // namespace

std::unique_ptr<Communicator> over_nccl(Communicator& ranks, Device device) {
  all_or_none(ranks, [&] {
    if (device.is_cpu()) throw DeviceError("over_nccl: the device is cpu, expected one of CUDA");
    backend_of(device).devices.require("over_nccl", device.index);
  });
  return std::make_unique<NcclCommunicator>(ranks, device, ranks.size() == 1 ? nullptr : join(ranks, device.index));
}

}  // namespace tapecache::distributed
