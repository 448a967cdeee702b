#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "random_step.h"
#include "ranks.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/losses/losses.h"
#include "tapecache/ops/elementwise.h"

using namespace tapecache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

enum class Kind { kInfoNce, kClip, kSiglip, kGist, kNtXent, kSupCon, kMaxsim };
constexpr int kKinds = 7;
constexpr Kind kEachKind[kKinds] = {Kind::kInfoNce, Kind::kClip,   Kind::kSiglip, Kind::kGist,
                                    Kind::kNtXent,  Kind::kSupCon, Kind::kMaxsim};

/// A loss of whole tensors, of which a rank takes rows.
struct Case {
  Kind kind = Kind::kInfoNce;
  std::int64_t queries = 1, step = 1, width = 1;
  Tensor a, b, guide_a, guide_b, query_ids, target_ids;
  Tensor labels;                     // of sup_con
  Tensor query_mask, document_mask;  // of maxsim_loss
  bool equal_rows = false, relative = false, matryoshka = false, frozen_targets = false;
  double scale = 1, bias = 0, label_smoothing = 0, hardness = 0, margin = 0;
  bool tiled = false;
  ops::TileOptions tile = {};
  SharedCandidates candidates = SharedCandidates::kAutomatic;
  std::vector<std::int64_t> counts;  // of queries, of each rank

  std::string text() const {
    return "loss " + std::to_string(static_cast<int>(kind)) + ", " + std::to_string(queries) + " queries of " +
           std::to_string(step) + ", width " + std::to_string(width) + ", " + std::to_string(counts.size()) +
           " ranks, smoothing " + std::to_string(label_smoothing) + ", hardness " + std::to_string(hardness) +
           ", candidates " + std::to_string(static_cast<int>(candidates)) + (tiled ? ", tiles" : "") +
           (matryoshka ? ", matryoshka" : "") + (equal_rows ? ", equal rows" : "") +
           (query_ids.defined() ? ", query ids" : "") + (target_ids.defined() ? ", target ids" : "");
  }
};

Tensor random_ids(Dice& dice, std::int64_t count) {
  Tensor ids = Tensor::empty({count}, DType::kInt64);
  for (std::int64_t i = 0; i < count; ++i) ids.mutable_data<std::int64_t>()[i] = dice.between(-3, 6) * 1000003;
  return ids;
}

/// At least two labels are equal where there are two.
Tensor random_labels(Dice& dice, std::int64_t count) {
  Tensor labels = random_ids(dice, count);
  if (count > 1) labels.slice(1, 2).copy_from(labels.slice(0, 1).clone());
  return labels;
}

/// One token of each row is valid, where `some`.
Tensor random_mask(Dice& dice, std::int64_t rows, std::int64_t tokens, bool some) {
  Tensor mask = Tensor::empty({rows, tokens}, DType::kBool);
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t t = 0; t < tokens; ++t) mask.mutable_data<bool>()[i * tokens + t] = dice.chance(60);
    if (some) mask.mutable_data<bool>()[i * tokens + dice.between(0, tokens - 1)] = true;
  }
  return mask;
}

/// Some rows are the same as others.
void repeat_rows(Dice& dice, Tensor& x) {
  for (std::int64_t i = 1; i < x.size(0); ++i) {
    if (!dice.chance(30)) continue;
    const std::int64_t from = dice.between(0, i - 1);
    x.slice(i, i + 1).copy_from(x.slice(from, from + 1).clone());
  }
}

Case random_case(std::uint64_t seed) {
  Dice dice(seed);
  Case c;
  c.kind = static_cast<Kind>(dice.between(0, kKinds - 1));
  c.queries = dice.between(1, 23);
  if (c.kind == Kind::kInfoNce || c.kind == Kind::kGist || c.kind == Kind::kMaxsim) c.step = dice.between(1, 3);
  if (c.kind == Kind::kSupCon) c.queries = std::max<std::int64_t>(2, c.queries);
  c.width = dice.between(1, 9);
  c.a = random_values({c.queries, c.width}, seed);
  c.b = random_values({c.queries * c.step, c.width}, seed + 1);
  if (c.kind == Kind::kMaxsim) {
    const std::int64_t query_tokens = dice.between(1, 4), document_tokens = dice.between(1, 4);
    c.a = random_values({c.queries, query_tokens, c.width}, seed);
    c.b = random_values({c.queries * c.step, document_tokens, c.width}, seed + 1);
    if (dice.chance(60)) c.query_mask = random_mask(dice, c.queries, query_tokens, false);
    if (dice.chance(60)) c.document_mask = random_mask(dice, c.queries * c.step, document_tokens, true);
  }
  if (c.kind == Kind::kSupCon) c.labels = random_labels(dice, c.queries);
  c.guide_a = random_values({c.queries, 4}, seed + 2);
  c.guide_b = random_values({c.queries * c.step, 4}, seed + 3);
  c.margin = dice.chance(50) ? 0 : 0.1;
  c.relative = dice.chance(50);
  c.scale = dice.chance(50) ? 1 : static_cast<double>(dice.between(2, 30));
  c.bias = static_cast<double>(dice.between(-30, 10)) / 10;
  if (c.kind == Kind::kInfoNce || c.kind == Kind::kClip) {
    if (dice.chance(50)) c.label_smoothing = static_cast<double>(dice.between(1, 6)) / 10;
    if (dice.chance(50)) c.hardness = static_cast<double>(dice.between(1, 20)) / 10;
  }
  if (dice.chance(60)) {
    repeat_rows(dice, c.b);
    repeat_rows(dice, c.guide_b);
    if (dice.chance(50)) repeat_rows(dice, c.a);
    const std::int64_t which = dice.between(0, 3);
    c.equal_rows = which == 0;
    if (which == 1 || which == 3) c.target_ids = random_ids(dice, c.b.size(0));
    if (which == 2 || which == 3) c.query_ids = random_ids(dice, c.queries);
  }
  c.matryoshka = dice.chance(20) && c.kind != Kind::kMaxsim;
  c.frozen_targets = c.kind == Kind::kSupCon || (dice.chance(10) && c.kind != Kind::kNtXent);
  c.tiled = dice.chance(70);
  if (dice.chance(90)) c.tile = {dice.between(1, 7), dice.between(1, 7)};
  c.candidates = static_cast<SharedCandidates>(dice.between(0, 2));
  c.counts.assign(static_cast<std::size_t>(dice.between(1, 8)), 0);
  for (std::int64_t i = 0; i < c.queries; ++i) {
    ++c.counts[static_cast<std::size_t>(dice.between(0, std::ssize(c.counts) - 1))];
  }
  return c;
}

/// Rows [begin, end) of queries, and what goes with them.
Variable loss_of(const Case& c, std::span<const Variable> r, const Variable& scale, const Variable& bias,
                 std::int64_t begin, std::int64_t end, Communicator* ranks) {
  const auto queries = [&](const Tensor& x) { return x.defined() ? x.slice(begin, end) : Tensor(); };
  const auto targets = [&](const Tensor& x) { return x.defined() ? x.slice(begin * c.step, end * c.step) : Tensor(); };
  const ops::EqualTargets equal{targets(c.target_ids), queries(c.query_ids), c.equal_rows};
  const Tiles tiles = ranks && c.tiled ? Tiles(c.tile) : Tiles();
  const auto loss = [&](std::span<const Variable> x) -> Variable {
    switch (c.kind) {
      case Kind::kInfoNce:
        return info_nce(x[0], x[1],
                        {.scale = scale,
                         .label_smoothing = c.label_smoothing,
                         .hardness = c.hardness,
                         .equal_targets = equal,
                         .tiles = tiles,
                         .communicator = ranks,
                         .candidates = c.candidates});
      case Kind::kClip:
        return clip_loss(x[0], x[1],
                         {.scale = scale,
                          .label_smoothing = c.label_smoothing,
                          .hardness = c.hardness,
                          .equal_targets = equal,
                          .tiles = tiles,
                          .communicator = ranks,
                          .candidates = c.candidates});
      case Kind::kSiglip:
        return siglip_loss(x[0], x[1],
                           {.scale = scale,
                            .bias = bias,
                            .equal_targets = equal,
                            .tiles = tiles,
                            .communicator = ranks,
                            .candidates = c.candidates});
      case Kind::kGist:
        return gist_loss(x[0], x[1], queries(c.guide_a), targets(c.guide_b),
                         {.scale = scale,
                          .margin = c.margin,
                          .relative = c.relative,
                          .equal_targets = equal,
                          .communicator = ranks});
      case Kind::kNtXent:
        return nt_xent(x[0], x[1],
                       {.scale = scale, .equal_targets = equal, .communicator = ranks, .candidates = c.candidates});
      case Kind::kSupCon:
        return sup_con(x[0], queries(c.labels), {.scale = scale, .communicator = ranks, .candidates = c.candidates});
      case Kind::kMaxsim:
        return maxsim_loss(x[0], queries(c.query_mask), x[1], targets(c.document_mask),
                           {.scale = scale,
                            .equal_targets = equal,
                            .tiles = tiles,
                            .communicator = ranks,
                            .candidates = c.candidates});
    }
    return {};
  };
  if (!c.matryoshka) return loss(r);
  std::vector<std::int64_t> widths{(c.width + 1) / 2, c.width};
  return losses::matryoshka(loss, r, {.widths = widths, .weights = {0.5, 2}, .normalize = c.label_smoothing == 0});
}

struct Found {
  Tensor loss, a, b, scale, bias;
  int rank = 0;
  std::vector<std::int64_t> digests_of_0 = {};  // of rank 0's loss and scale
};

Found take(const Case& c, std::int64_t begin, std::int64_t end, Communicator* ranks, DType dtype = DType::kFloat64) {
  Tape tape;
  const auto leaf = [&](const Tensor& x) { return tape.leaf(x.to(dtype).clone()); };
  const Variable a = leaf(c.a.slice(begin, end));
  const Tensor targets = c.b.slice(begin * c.step, end * c.step);
  const Variable b = c.frozen_targets ? Variable(targets.to(dtype)) : leaf(targets);
  const Variable scale = leaf(Tensor::full({}, c.scale, dtype)), bias = leaf(Tensor::full({}, c.bias, dtype));
  Variable loss;
  {
    const Recording recording(tape);
    // Twice the loss, so that the gradient that comes in is not 1.
    loss = ops::scale(loss_of(c, std::vector<Variable>{a, b}, scale, bias, begin, end, ranks), 2);
  }
  tape.backward(loss);
  return {loss.value(), tape.gradient(a), c.frozen_targets ? Tensor() : tape.gradient(b), tape.gradient(scale),
          tape.gradient(bias)};
}

std::vector<Found> take_shared(const Case& c, DType dtype = DType::kFloat64) {
  return results_of<Found>(static_cast<int>(c.counts.size()), [&](Communicator& ranks) {
    const Slice slice(ranks.rank(), {c.counts});
    const std::int64_t begin = slice.first(0), own = c.counts[static_cast<std::size_t>(ranks.rank())];
    Found found = take(c, begin, begin + own, &ranks, dtype);
    found.rank = ranks.rank();
    found.digests_of_0 = of_rank_0(ranks, digests({found.loss, found.scale}));
    return found;
  });
}

/// ‖x - y‖ against ‖y‖ or, where what is large cancels in y, 1.
bool near(const Tensor& x, const Tensor& y, double tolerance) {
  if (x.defined() != y.defined()) return false;
  if (!x.defined()) return true;
  if (x.shape() != y.shape()) return false;
  const std::vector<double> found = doubles(x), expected = doubles(y);
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    difference += (found[i] - expected[i]) * (found[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(difference) <= tolerance * std::max(1.0, std::sqrt(norm));
}

void check_as_whole(const Case& c, double tolerance, DType dtype = DType::kFloat64) {
  if (!has_group(static_cast<int>(c.counts.size()))) return;
  BOOST_TEST_CONTEXT(c.text()) {
    const Found whole = take(c, 0, c.queries, nullptr, dtype);
    for (const Found& found : take_shared(c, dtype)) {
      BOOST_TEST_CONTEXT("rank " << found.rank) {
        const std::int64_t begin = Slice(found.rank, {c.counts}).first(0),
                           end = begin + c.counts[static_cast<std::size_t>(found.rank)];
        BOOST_TEST(near(found.loss, whole.loss, tolerance));
        BOOST_TEST(near(found.a, whole.a.slice(begin, end), tolerance));
        if (!c.frozen_targets) {
          BOOST_TEST(near(found.b, whole.b.slice(begin * c.step, end * c.step), tolerance));
        }
        BOOST_TEST(near(found.scale, whole.scale, tolerance));
        BOOST_TEST(near(found.bias, whole.bias, tolerance));
        BOOST_TEST(digests({found.loss, found.scale}) == found.digests_of_0, boost::test_tools::per_element());
      }
    }
  }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(shared_losses)

/// The number of a case is its seed.
BOOST_AUTO_TEST_CASE(random_cases_are_the_whole_loss) {
  for (std::uint64_t seed = 1; seed <= 400; ++seed) {
    BOOST_TEST_CONTEXT("seed " << seed) { check_as_whole(random_case(seed), 1e-12); }
  }
}

BOOST_AUTO_TEST_CASE(random_cases_in_f32) {
  for (std::uint64_t seed = 1001; seed <= 1060; ++seed) {
    BOOST_TEST_CONTEXT("seed " << seed) { check_as_whole(random_case(seed), 2e-5, DType::kFloat32); }
  }
}

/// What the loss takes that others do not.
void give_own(Case& c) {
  c.frozen_targets = c.kind == Kind::kSupCon;
  if (c.kind == Kind::kSupCon) {
    c.labels = Tensor::zeros({c.queries}, DType::kInt64);
    for (std::int64_t i = 0; i < c.queries; ++i) c.labels.mutable_data<std::int64_t>()[i] = i / 2;
  }
  if (c.kind == Kind::kMaxsim) {
    c.a = random_values({c.queries, 2, c.width}, 1);
    c.b = random_values({c.queries, 3, c.width}, 2);
  }
}

/// Logits so far apart that exp of their differences vanishes.
BOOST_AUTO_TEST_CASE(large_logits) {
  for (const Kind kind : kEachKind) {
    for (const double hardness : {0.0, 3.0}) {
      Case c = random_case(7);
      c.kind = kind;
      c.queries = 9, c.step = 1, c.width = 5;
      c.a = random_values({9, 5}, 1), c.b = random_values({9, 5}, 2);
      c.guide_a = random_values({9, 4}, 3), c.guide_b = random_values({9, 4}, 4);
      give_own(c);
      c.query_ids = c.target_ids = Tensor();
      c.equal_rows = c.matryoshka = false;
      c.label_smoothing = 0;
      c.hardness = kind == Kind::kInfoNce || kind == Kind::kClip ? hardness : 0;
      c.scale = kind == Kind::kClip ? 100 : 2000;
      c.counts = {4, 0, 3, 2};
      check_as_whole(c, 1e-12);
    }
  }
}

/// Two of a class that are equal, and a third opposite to them: in f32 a small loss at large logits.
BOOST_AUTO_TEST_CASE(small_losses_keep_their_digits) {
  const std::vector<Tensor> rows{Tensor::from({1.0f, 0.0f, 1.0f, 0.0f}, {2, 2}), Tensor::from({-1.0f, 0.0f}, {1, 2})};
  const std::vector<Tensor> labels{Tensor::from<std::int64_t>({0, 0}, {2}), Tensor::from<std::int64_t>({1}, {1})};
  for (const float scale : {4.5f, 5.2f, 6.1f, 7.3f}) {
    const double expected = std::log1p(std::exp(-2 * static_cast<double>(scale)));
    const std::vector<double> found = results_of<double>(2, [&](Communicator& ranks) {
      const auto r = static_cast<std::size_t>(ranks.rank());
      return sup_con(rows[r], labels[r], {.scale = Tensor::scalar(scale), .communicator = &ranks}).value().item();
    });
    for (const double loss : found) BOOST_TEST(std::abs(loss - expected) <= 1e-5 * expected, scale << ": " << loss);
  }
}

/// Of a single pair, and where all others are equal to the positive, nothing is left to push away.
BOOST_AUTO_TEST_CASE(rows_without_negatives) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    for (const Kind kind : {Kind::kInfoNce, Kind::kClip}) {
      for (const double hardness : {0.0, 1.4}) {
        for (const std::int64_t queries : {1, 3}) {
          Case c;
          c.kind = kind, c.queries = queries, c.width = 7, c.scale = 20, c.hardness = hardness;
          c.a = random_values({queries, 7}, 1), c.b = random_values({queries, 7}, 2);
          if (queries > 1) c.target_ids = Tensor::zeros({queries}, DType::kInt64);
          c.counts = {queries - 1, 0, 1};
          check_as_whole(c, dtype == DType::kFloat64 ? 1e-12 : 2e-5, dtype);
        }
      }
    }
  }
}

/// A NaN in a representation is one in the loss, on every rank.
BOOST_AUTO_TEST_CASE(not_a_number) {
  for (const Kind kind : kEachKind) {
    for (const SharedCandidates candidates : {SharedCandidates::kGathered, SharedCandidates::kRing}) {
      for (const bool in_targets : {false, true}) {
        for (const bool some_equal : {false, true}) {
          Case c;
          c.kind = kind, c.candidates = candidates;
          c.queries = 7, c.width = 3;
          c.a = random_values({7, 3}, 1), c.b = random_values({7, 3}, 2);
          c.guide_a = random_values({7, 4}, 3), c.guide_b = random_values({7, 4}, 4);
          give_own(c);
          if (in_targets && kind == Kind::kSupCon) continue;  // which has none
          if (some_equal) c.target_ids = Tensor::from(std::vector<std::int64_t>{1, 2, 1, 3, 4, 4, 1}, {7});
          (in_targets ? c.b : c.a).mutable_data<double>()[4] = std::numeric_limits<double>::quiet_NaN();
          c.tiled = true, c.tile = {2, 3};
          c.counts = {2, 0, 4, 1};
          const Found whole = take(c, 0, c.queries, nullptr);
          BOOST_TEST(std::isnan(whole.loss.item()));
          for (const Found& found : take_shared(c)) {
            BOOST_TEST(std::isnan(found.loss.item()), c.text());
            BOOST_TEST(std::isnan(found.scale.item()) == std::isnan(whole.scale.item()), c.text());
          }
        }
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
