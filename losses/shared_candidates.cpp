#include "tapecache/losses/shared_candidates.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace tapecache::losses::detail {

using distributed::Communicator;

namespace {

/// A block on its way around the ranks: what is here, and room for what comes next.
class Travelling {
 public:
  Travelling(const Tensor& like, std::int64_t most) : shape_(like.shape().with(0, most)), like_(like) {}

  Tensor& here() { return here_; }
  void start(Tensor block) { here_ = std::move(block); }
  void start_at_zero(std::int64_t rows) {
    here_ = room(rows);
    here_.fill(0);
  }
  /// Sends what is here to the next rank, and takes what the one before sends.
  void hop(Communicator& ranks, std::int64_t rows) {
    Tensor received = room(rows);
    pass_on(ranks, here_, received);
    here_ = std::move(received);
  }
  /// The last hop.
  void arrive(Communicator& ranks, Tensor home) { pass_on(ranks, here_, home); }

 private:
  Tensor room(std::int64_t rows) {
    Tensor& room = rooms_[next_];
    next_ = 1 - next_;
    if (!room.defined()) room = Tensor::empty(shape_, like_.dtype(), like_.device());
    return room.slice(0, rows);
  }

  Shape shape_;
  Tensor like_, here_, rooms_[2];
  int next_ = 0;
};

}  // namespace

Candidates::Candidates(Communicator& ranks, Tensor own, Shares shares, bool ring, std::int64_t block)
    : ranks_(ranks), own_(std::move(own)), shares_(std::move(shares)), ring_(ring), block_(block) {
  if (!ring_) all_ = gather_rows(ranks_, own_, shares_);
}

std::int64_t Candidates::turns() const {
  const std::int64_t most = *std::max_element(shares_.counts.begin(), shares_.counts.end());
  return (most + block_ - 1) / block_;
}

Candidates::Place Candidates::place(int rank, std::int64_t turn) const {
  const std::int64_t count = shares_.counts[static_cast<std::size_t>(rank)];
  const std::int64_t begin = std::min(count, turn * block_);
  const std::int64_t lower = std::accumulate(shares_.counts.begin(), shares_.counts.begin() + rank, std::int64_t{0});
  return {lower + begin, begin, std::min(block_, count - begin)};
}

/// After h hops the block of the rank that is h before this one is here. Where gradients travel, one hop more than the
/// block makes brings them home.
void Candidates::go_around(std::int64_t turn, Tensor* own_gradient,
                           const std::function<void(CandidateBlock&)>& visitor) {
  const int size = ranks_.size(), rank = ranks_.rank();
  const Place home = place(rank, turn);
  const std::int64_t most = std::min(block_, *std::max_element(shares_.counts.begin(), shares_.counts.end()));
  Travelling rows(own_, most), gradient(own_, most);
  rows.start(own_.slice(home.begin, home.begin + home.count));
  if (own_gradient) gradient.start_at_zero(home.count);
  for (int hops = 0; hops < size; ++hops) {
    const Place from = place((rank + size - hops) % size, turn);
    CandidateBlock block{from.first, rows.here(), own_gradient ? gradient.here() : Tensor()};
    if (from.count > 0) visitor(block);
    const Place next = place((rank + 2 * size - hops - 1) % size, turn);
    if (hops + 1 < size) rows.hop(ranks_, next.count);
    if (!own_gradient) continue;
    if (hops + 1 < size) gradient.hop(ranks_, next.count);
    else gradient.arrive(ranks_, own_gradient->slice(home.begin, home.begin + home.count));
  }
}

void Candidates::visit(const std::function<void(CandidateBlock&)>& visitor) {
  if (ring_) {
    for (std::int64_t turn = 0; turn < turns(); ++turn) go_around(turn, nullptr, visitor);
    return;
  }
  for (std::int64_t first = 0; first < shares_.total; first += block_) {
    CandidateBlock block{first, all_.slice(first, std::min(shares_.total, first + block_)), {}};
    visitor(block);
  }
}

Tensor Candidates::visit_backward(bool gradient, const std::function<void(CandidateBlock&)>& visitor) {
  if (!gradient) {
    visit(visitor);
    release();
    return {};
  }
  if (ring_) {
    Tensor own = Tensor::empty(own_.shape(), own_.dtype(), own_.device());
    for (std::int64_t turn = 0; turn < turns(); ++turn) go_around(turn, &own, visitor);
    return own;
  }
  Tensor sum = Tensor::zeros(all_.shape(), all_.dtype(), all_.device());
  for (std::int64_t first = 0; first < shares_.total; first += block_) {
    const std::int64_t end = std::min(shares_.total, first + block_);
    CandidateBlock block{first, all_.slice(first, end), sum.slice(first, end)};
    visitor(block);
  }
  release();
  return scatter_sum(ranks_, sum, shares_);
}

}  // namespace tapecache::losses::detail
