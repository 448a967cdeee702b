#include "tapecache/losses/shared.h"

#include <numeric>

#include "tapecache/autograd/tape.h"
#include "tapecache/distributed/exception_text.h"

namespace tapecache::losses::detail {

using distributed::Communicator;

Variable gather_rows(Communicator& ranks, const Variable& rows, const std::vector<std::int64_t>& counts) {
  const std::int64_t total = std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
  Tensor all = Tensor::empty(rows.shape().with(0, total), rows.dtype(), rows.device());
  ranks.all_gather(rows.value(), all, counts);
  return record("gather_rows", std::move(all), {rows}, {Tensor::from(counts, {ranks.size()})},
                [group = &ranks](Backward& ctx) {
                  const std::vector<std::int64_t> shares = ctx.saved(0).to_vector<std::int64_t>();
                  const Tensor& gradient = ctx.output_gradient();
                  Tensor own = Tensor::empty(ctx.input_shape(0), gradient.dtype(), gradient.device());
                  group->reduce_scatter(gradient, own, shares);
                  ctx.pass(0, own);
                });
}

Variable sum_over_ranks(Communicator& ranks, const Variable& x) {
  Tensor sum = x.value().clone();
  ranks.all_reduce(sum);
  return record("sum_over_ranks", std::move(sum), {x}, {}, [](Backward& ctx) { ctx.pass(0, ctx.output_gradient()); });
}

Tensor max_over_ranks(Communicator& ranks, const Tensor& x) {
  Tensor largest = x.clone();
  ranks.all_reduce(largest, distributed::Reduction::kMax);
  return largest;
}

Variable common(Communicator& ranks, const Variable& x) {
  return record("common", x.value(), {x}, {}, [group = &ranks](Backward& ctx) {
    Tensor sum = ctx.output_gradient().clone();
    group->all_reduce(sum);
    ctx.pass(0, sum);
  });
}

std::vector<std::int64_t> row_counts(Communicator& ranks, std::int64_t own) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(ranks.size()));
  Tensor all = Tensor::wrap(counts.data(), {ranks.size()});
  const std::vector<std::int64_t> one_each(counts.size(), 1);
  ranks.all_gather(Tensor::wrap(&own, {1}), all, one_each);
  return counts;
}

Variable take_shared(Communicator& ranks, const std::function<Variable()>& loss) {
  try {
    return loss();
  } catch (const distributed::CommunicationError&) {
    throw;
  } catch (...) {
    ranks.fail(distributed::detail::exception_text());
    throw;
  }
}

}  // namespace tapecache::losses::detail
