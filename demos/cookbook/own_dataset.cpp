#include <algorithm>
#include <cstdio>
#include <span>
#include <vector>

#include <tapecache/tapecache.h>

using namespace tapecache;

/// Sets of points, each of its own size, one after another in a flat list. `size` and `slice` are all that a step
/// needs.
struct PointSets {
  Tensor points;                      // [all points, 2]
  std::vector<std::int64_t> offsets;  // set i is points [offsets[i], offsets[i + 1])

  std::int64_t size() const { return static_cast<std::int64_t>(offsets.size()) - 1; }
  PointSets slice(std::int64_t begin, std::int64_t end) const {
    const std::int64_t first = offsets.at(static_cast<std::size_t>(begin)),
                       last = offsets.at(static_cast<std::size_t>(end));
    PointSets part{points.slice(first, last), {}};
    for (std::int64_t i = begin; i <= end; ++i) part.offsets.push_back(offsets[static_cast<std::size_t>(i)] - first);
    return part;
  }

  // With these two, chunks are made of sets that cost the same together.
  std::vector<std::int64_t> lengths() const {
    std::vector<std::int64_t> lengths;
    for (std::size_t i = 0; i + 1 < offsets.size(); ++i) lengths.push_back(offsets[i + 1] - offsets[i]);
    return lengths;
  }
  PointSets select(std::span<const std::int64_t> sets) const {
    PointSets chosen{Tensor(), {0}};
    std::vector<std::int64_t> rows;
    for (const std::int64_t set : sets) {
      const auto i = static_cast<std::size_t>(set);
      for (std::int64_t row = offsets.at(i); row < offsets.at(i + 1); ++row) rows.push_back(row);
      chosen.offsets.push_back(static_cast<std::int64_t>(rows.size()));
    }
    const auto count = static_cast<std::int64_t>(rows.size());
    chosen.points = ops::gather_rows(points, Tensor::from(rows, {count})).value();
    return chosen;
  }

  // With the first, a change between the two forwards is noticed; with the second, chunks are copied to a GPU one by
  // one.
  std::uint64_t version() const { return points.version(); }
  template <class Change>
  PointSets map_tensors(const Change& change) const {
    return {change(points), offsets};
  }
};

PointSets make_sets(int count, float shift) {
  PointSets sets{Tensor(), {0}};
  std::vector<float> values;
  for (int i = 0; i < count; ++i) {
    const int points = 1 + i * 7 % 5;
    for (int k = 0; k < points; ++k) {
      values.push_back(static_cast<float>(i % 8) - 3.5f + 0.1f * static_cast<float>(k));
      values.push_back(static_cast<float>(i / 8) - 3.5f + shift);
    }
    sets.offsets.push_back(sets.offsets.back() + points);
  }
  sets.points = Tensor::from(values, {sets.offsets.back(), 2});
  return sets;
}

/// The mean over each set's points of a network: a matrix of shares times its rows.
struct SetEncoder {
  models::Linear inner, outer;

  explicit SetEncoder(const models::Builder& builder)
      : inner(builder.child("inner"), 2, 64, models::Init::normal(1)),
        outer(builder.child("outer"), 64, 16, models::Init::normal(0.2)) {}

  Variable operator()(const PointSets& sets) const {
    const std::int64_t points = sets.points.size(0);
    Tensor shares = Tensor::zeros({sets.size(), points});
    for (std::int64_t i = 0; i < sets.size(); ++i) {
      const std::int64_t first = sets.offsets[static_cast<std::size_t>(i)];
      const std::int64_t last = sets.offsets[static_cast<std::size_t>(i) + 1];
      float* row = shares.mutable_data<float>() + i * points;
      std::fill(row + first, row + last, 1.0f / static_cast<float>(last - first));
    }
    return ops::l2_normalize(outer(ops::matmul(shares, ops::gelu(inner(sets.points)))));
  }
};

int main() {
  const PointSets sets = make_sets(64, 0), moved = make_sets(64, 0.05f);
  const models::Builder builder(/*seed=*/2);
  const SetEncoder encode(builder);
  const std::vector<gradcache::Tower> towers{{"sets", sets, encode}, {"moved", moved, encode}};
  const gradcache::Loss loss = [](auto r) { return losses::info_nce(r[0], r[1]); };

  for (const gradcache::StepOptions& options :
       {gradcache::StepOptions{.cut = {8}}, {.cut = gradcache::ChunkTokens{20}}}) {
    const auto difference = gradcache::compare(towers, loss, options, builder.parameters());
    std::printf("chunks by %s: %s the direct gradient\n",
                std::holds_alternative<gradcache::ChunkTokens>(options.cut) ? "cost" : "number",
                difference.relative_norm < 1e-5 ? "equal to" : "NOT");
  }
  train::AdamW optimizer(builder.parameters());
  double first = 0, last = 0;
  for (int step = 0; step < 60; ++step) {
    last = gradcache::cached_step(towers, loss, {.cut = gradcache::ChunkTokens{20}}).loss.item();
    if (step == 0) first = last;
    optimizer.step(1e-2);
    optimizer.clear_gradients();
  }
  std::printf("loss below a fifth of the first: %s\n", last < first / 5 ? "yes" : "no");
}
