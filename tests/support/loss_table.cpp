#include "loss_table.h"

#include <algorithm>
#include <cmath>

#include "checks.h"
#include "tapecache/losses/losses.h"

namespace tapecache::testing {

using namespace losses;

namespace {

using Span = std::span<const Variable>;
using Matrix = std::vector<std::vector<double>>;

Matrix matrix_of(const Tensor& t) {
  const std::vector<double> values = doubles(t);
  const auto cols = static_cast<std::size_t>(t.size(1));
  Matrix m;
  for (std::size_t i = 0; i < static_cast<std::size_t>(t.size(0)); ++i) {
    m.emplace_back(values.begin() + static_cast<std::ptrdiff_t>(i * cols),
                   values.begin() + static_cast<std::ptrdiff_t>((i + 1) * cols));
  }
  return m;
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

double cosine(const std::vector<double>& a, const std::vector<double>& b) {
  return dot(a, b) / std::sqrt(dot(a, a) * dot(b, b));
}

Matrix logits_of(const Tensor& a, const Tensor& b, double scale) {
  Matrix z;
  for (const auto& x : matrix_of(a)) {
    z.emplace_back();
    for (const auto& y : matrix_of(b)) z.back().push_back(scale * dot(x, y));
  }
  return z;
}

Matrix transposed(const Matrix& m) {
  Matrix t(m[0].size(), std::vector<double>(m.size()));
  for (std::size_t i = 0; i < m.size(); ++i) {
    for (std::size_t j = 0; j < m[0].size(); ++j) t[j][i] = m[i][j];
  }
  return t;
}

using Ids = std::vector<std::int64_t>;

Tensor tensor_of(const Ids& ids) {
  return ids.empty() ? Tensor() : Tensor::from(ids, {static_cast<std::int64_t>(ids.size())});
}

/// Whether target j is no negative of query i, whose positive is target i · step. Without ids all differ.
bool left_out(std::size_t i, std::size_t j, std::size_t step, const Ids& query_ids, const Ids& target_ids) {
  if (j == i * step) return false;
  const bool same_target = !target_ids.empty() && target_ids[j] == target_ids[i * step];
  return same_target || (!query_ids.empty() && j % step == 0 && query_ids[j / step] == query_ids[i]);
}

/// How a row's candidates count, as InfoNceOptions has it.
struct Weighting {
  double label_smoothing = 0, hardness = 0;

  bool some() const { return label_smoothing != 0 || hardness != 0; }
};

/// Mean over rows of the cross-entropy against (1 - ε) at the positive and ε spread evenly over the candidates,
/// negatives weighted.
double contrast(const Matrix& z, std::size_t step, const Weighting& weighting = {}, const Ids& query_ids = {},
                const Ids& target_ids = {}) {
  double total = 0;
  for (std::size_t i = 0; i < z.size(); ++i) {
    const std::size_t positive = i * step;
    std::vector<std::size_t> candidates;
    for (std::size_t j = 0; j < z[i].size(); ++j) {
      if (!left_out(i, j, step, query_ids, target_ids)) candidates.push_back(j);
    }
    const auto m = static_cast<double>(candidates.size());
    double weights = 0;
    for (const std::size_t j : candidates) weights += j == positive ? 0 : std::exp(weighting.hardness * z[i][j]);
    std::vector<double> terms(z[i].size());
    double sum = 0;
    for (const std::size_t j : candidates) {
      const double weight = j == positive ? 1 : std::exp(weighting.hardness * z[i][j]) * (m - 1) / weights;
      sum += terms[j] = weight * std::exp(z[i][j]);
    }
    for (const std::size_t j : candidates) {
      const double target = (j == positive ? 1 - weighting.label_smoothing : 0) + weighting.label_smoothing / m;
      total -= target * std::log(terms[j] / sum);
    }
  }
  return total / static_cast<double>(z.size());
}

double naive_siglip(const Tensor& a, const Tensor& b, double scale, double bias, const Ids& query_ids = {},
                    const Ids& target_ids = {}) {
  const Matrix z = logits_of(a, b, scale);
  double total = 0;
  for (std::size_t i = 0; i < z.size(); ++i) {
    for (std::size_t j = 0; j < z.size(); ++j) {
      if (left_out(i, j, 1, query_ids, target_ids)) continue;
      const double sign = i == j ? 1 : -1;
      total += std::log1p(std::exp(-sign * (z[i][j] + bias)));
    }
  }
  return total / static_cast<double>(z.size());
}

/// -log softmax over all rows but the anchor, averaged over its positives, then over the anchors that have one.
double naive_supervised(const Matrix& x, const std::vector<std::int64_t>& labels, double scale) {
  double total = 0;
  int anchors = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    double sum = 0, own = 0;
    int positives = 0;
    for (std::size_t j = 0; j < x.size(); ++j) {
      if (j != i) sum += std::exp(scale * cosine(x[i], x[j]));
    }
    for (std::size_t j = 0; j < x.size(); ++j) {
      if (j == i || labels[j] != labels[i]) continue;
      own -= std::log(std::exp(scale * cosine(x[i], x[j])) / sum);
      ++positives;
    }
    if (positives == 0) continue;
    total += own / positives;
    ++anchors;
  }
  return total / anchors;
}

double naive_gist(const Tensor& queries, const Tensor& targets, const Tensor& guide_queries,
                  const Tensor& guide_targets, double scale, const GistOptions& options, const Ids& target_ids = {}) {
  const Matrix q = matrix_of(queries), t = matrix_of(targets), gq = matrix_of(guide_queries),
               gt = matrix_of(guide_targets);
  const std::size_t step = t.size() / q.size();
  double total = 0;
  for (std::size_t i = 0; i < q.size(); ++i) {
    const double near = cosine(gq[i], gt[i * step]);
    const double limit = near - options.margin * (options.relative ? std::abs(near) : 1);
    double sum = 0;
    for (std::size_t j = 0; j < t.size(); ++j) {
      if (left_out(i, j, step, {}, target_ids)) continue;
      if (j == i * step || cosine(gq[i], gt[j]) <= limit) sum += std::exp(scale * cosine(q[i], t[j]));
    }
    for (std::size_t j = 0; j < q.size(); ++j) {
      if (j == i || left_out(i, j * step, step, {}, target_ids)) continue;
      if (cosine(gq[i], gq[j]) <= limit) sum += std::exp(scale * cosine(q[i], q[j]));
      if (cosine(gt[i * step], gt[j * step]) <= limit) sum += std::exp(scale * cosine(t[i * step], t[j * step]));
    }
    total += std::log(sum) - scale * cosine(q[i], t[i * step]);
  }
  return total / static_cast<double>(q.size());
}

double naive_maxsim(const Tensor& queries, const Tensor& query_mask, const Tensor& documents,
                    const Tensor& document_mask, double scale, const Ids& document_ids = {}) {
  const auto valid = [](const Tensor& mask, std::int64_t i, std::int64_t t) {
    return !mask.defined() || mask.data<bool>()[i * mask.size(1) + t];
  };
  const std::int64_t n = queries.size(0), m = documents.size(0), width = queries.size(2);
  Matrix z(static_cast<std::size_t>(n), std::vector<double>(static_cast<std::size_t>(m), 0.0));
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < m; ++j) {
      for (std::int64_t t = 0; t < queries.size(1); ++t) {
        if (!valid(query_mask, i, t)) continue;
        double best = -kInfinity;
        for (std::int64_t s = 0; s < documents.size(1); ++s) {
          if (!valid(document_mask, j, s)) continue;
          double similarity = 0;
          for (std::int64_t w = 0; w < width; ++w) {
            similarity += queries.data<double>()[(i * queries.size(1) + t) * width + w] *
                          documents.data<double>()[(j * documents.size(1) + s) * width + w];
          }
          best = std::max(best, similarity);
        }
        z[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)] += scale * best;
      }
    }
  }
  return contrast(z, static_cast<std::size_t>(m / n), {}, {}, document_ids);
}

using TiledLoss = std::function<Variable(Span, const Tiles&)>;

/// A row of a loss with `tiles` among its options, and one of the same in tiles, unless it refuses them.
void add(std::vector<LossRow>& rows, const std::string& name, const std::vector<Tensor>& inputs, const TiledLoss& loss,
         const std::function<double()>& reference, bool refuses_tiles = false) {
  LossRow row{.name = name,
              .inputs = inputs,
              .loss = [loss](Span x) { return loss(x, std::nullopt); },
              .reference = reference,
              .in_tiles = loss,
              .refuses_tiles = refuses_tiles};
  rows.push_back(row);
  if (refuses_tiles) return;
  row.name += ", in tiles";
  row.loss = [loss](Span x) { return loss(x, ops::TileOptions{4, 5}); };
  row.in_tiles = {};
  rows.push_back(row);
}

/// Rows of length about one, as representations have: logits are of the size of the scale.
Tensor unit_rows(std::int64_t rows, std::int64_t width, std::uint64_t seed) {
  std::vector<double> values = doubles(random_values({rows, width}, seed));
  for (double& v : values) v *= std::sqrt(3 / static_cast<double>(width));
  return Tensor::from(values, {rows, width});
}

/// The ids over and over.
Ids repeated(const Ids& ids, std::int64_t count) {
  Ids all;
  for (std::size_t i = 0; !ids.empty() && i < static_cast<std::size_t>(count); ++i) all.push_back(ids[i % ids.size()]);
  return all;
}

void add_pairwise(std::vector<LossRow>& rows, std::int64_t n, std::int64_t width) {
  const Tensor a = unit_rows(n, width, 1), b = unit_rows(n, width, 2), hard = unit_rows(3 * n, width, 3);
  const auto info = [&](const std::string& name, const Tensor& targets, const Weighting& weighting, const Ids& q = {},
                        const Ids& t = {}) {
    const Ids query_ids = repeated(q, n), target_ids = repeated(t, targets.size(0));
    const ops::EqualTargets equal{.target_ids = tensor_of(target_ids), .query_ids = tensor_of(query_ids)};
    add(
        rows, "info_nce" + name, {a, targets, scalar(3)},
        [=](Span x, const Tiles& tiles) {
          return info_nce(x[0], x[1],
                          {.scale = x[2],
                           .label_smoothing = weighting.label_smoothing,
                           .hardness = weighting.hardness,
                           .equal_targets = equal,
                           .tiles = tiles});
        },
        [=] {
          return contrast(logits_of(a, targets, 3), static_cast<std::size_t>(targets.size(0) / n), weighting, query_ids,
                          target_ids);
        },
        weighting.some());
  };
  const auto clip = [&](const std::string& name, const Weighting& weighting, const Ids& q = {}, const Ids& t = {}) {
    const Ids query_ids = repeated(q, n), target_ids = repeated(t, n);
    const ops::EqualTargets equal{.target_ids = tensor_of(target_ids), .query_ids = tensor_of(query_ids)};
    add(
        rows, "clip_loss" + name, {a, b, scalar(1.2)},
        [=](Span x, const Tiles& tiles) {
          return clip_loss(x[0], x[1],
                           {.scale = Scale::from_log(x[2]),
                            .label_smoothing = weighting.label_smoothing,
                            .hardness = weighting.hardness,
                            .equal_targets = equal,
                            .tiles = tiles});
        },
        [=] {
          const Matrix z = logits_of(a, b, std::exp(1.2));
          return 0.5 * (contrast(z, 1, weighting, query_ids, target_ids) +
                        contrast(transposed(z), 1, weighting, target_ids, query_ids));
        },
        weighting.some());
  };
  // Hard negatives are equal to positives of their own and of other queries; of query 3 all others are.
  const Ids query_ids{7, 8, 9, 7, 7, -3}, pair_ids{4, 1, 4, 5, -6, 4}, two{2, 2, 2, 2, 2, 3},
      target_ids{0, 0, 1, 5, 6, 0, 5, 7, 5, 2, 2, 2, 2, 5, 2, 9, 9, 9};
  info("", b, {});
  info(", hard negatives", hard, {});
  info(", smoothed", hard, {.label_smoothing = 0.2});
  info(", hardness", hard, {.hardness = 0.7});
  info(", both", b, {.label_smoothing = 0.1, .hardness = 1.5});
  info(", equal targets", b, {}, {}, pair_ids);
  info(", equal queries", b, {}, query_ids);
  info(", equal hard negatives", hard, {}, {}, target_ids);
  info(", equal queries and hard negatives", hard, {}, query_ids, target_ids);
  info(", equal targets but for one, smoothed, hardness", b, {.label_smoothing = 0.1, .hardness = 1.5}, {}, two);
  info(", equal queries and hard negatives, smoothed", hard, {.label_smoothing = 0.2}, query_ids, target_ids);
  info(", equal hard negatives, hardness", hard, {.hardness = 0.7}, {}, target_ids);
  clip("", {});
  clip(", smoothed", {.label_smoothing = 0.3});
  clip(", hardness", {.hardness = 0.5});
  clip(", equal pairs", {}, {}, pair_ids);
  clip(", equal images and texts", {}, query_ids, pair_ids);
  clip(", equal images, smoothed, hardness", {.label_smoothing = 0.3, .hardness = 0.5}, query_ids);
  add(
      rows, "siglip_loss", {a, b, scalar(0.7), scalar(-2)},
      [](Span x, const Tiles& tiles) {
        return siglip_loss(x[0], x[1], {.scale = Scale::from_log(x[2]), .bias = x[3], .tiles = tiles});
      },
      [=] { return naive_siglip(a, b, std::exp(0.7), -2); });
  for (const auto& [q, t] : {std::pair{Ids{}, pair_ids}, {query_ids, pair_ids}}) {
    const Ids images = repeated(q, n), texts = repeated(t, n);
    const ops::EqualTargets equal{.target_ids = tensor_of(texts), .query_ids = tensor_of(images)};
    add(
        rows, q.empty() ? "siglip_loss, equal pairs" : "siglip_loss, equal images and texts",
        {a, b, scalar(0.7), scalar(-2)},
        [=](Span x, const Tiles& tiles) {
          return siglip_loss(x[0], x[1],
                             {.scale = Scale::from_log(x[2]), .bias = x[3], .equal_targets = equal, .tiles = tiles});
        },
        [=] { return naive_siglip(a, b, std::exp(0.7), -2, images, texts); });
  }
}

void add_supervised(std::vector<LossRow>& rows) {
  const Tensor a = random_values({5, 4}, 4), b = random_values({5, 4}, 5), x = random_values({7, 3}, 6);
  rows.push_back({"nt_xent",
                  {a, b, scalar(2.5)},
                  [](Span v) { return nt_xent(v[0], v[1], {.scale = v[2]}); },
                  [=] {
                    Matrix both = matrix_of(a);
                    for (const auto& row : matrix_of(b)) both.push_back(row);
                    return naive_supervised(both, {0, 1, 2, 3, 4, 0, 1, 2, 3, 4}, 2.5);
                  }});
  // Equal samples are no candidates of each other: of either view there is one for each of the others, and the
  // positive.
  const Ids samples{3, 5, 3, 8, 5};
  rows.push_back({"nt_xent, equal samples",
                  {a, b, scalar(2.5)},
                  [=](Span v) {
                    return nt_xent(v[0], v[1], {.scale = v[2], .equal_targets = {.target_ids = tensor_of(samples)}});
                  },
                  [=] {
                    Matrix both = matrix_of(a);
                    for (const auto& row : matrix_of(b)) both.push_back(row);
                    double total = 0;
                    for (std::size_t i = 0; i < 10; ++i) {
                      const double own = 2.5 * cosine(both[i], both[(i + 5) % 10]);
                      double sum = std::exp(own);
                      for (std::size_t j = 0; j < 10; ++j) {
                        if (samples[j % 5] != samples[i % 5]) sum += std::exp(2.5 * cosine(both[i], both[j]));
                      }
                      total += std::log(sum) - own;
                    }
                    return total / 10;
                  }});
  const std::vector<std::int64_t> labels{4, -1, 4, 9, -1, 4, 7};  // two anchors have no positive
  const Tensor ids = Tensor::from(labels, {7});
  rows.push_back({"sup_con",
                  {x, scalar(3)},
                  [=](Span v) { return sup_con(v[0], ids, {.scale = v[1]}); },
                  [=] { return naive_supervised(matrix_of(x), labels, 3); },
                  1});
  rows.push_back({"sup_con, one class",
                  {x, scalar(3)},
                  [](Span v) { return sup_con(v[0], Tensor::full({7}, 2, DType::kInt32), {.scale = v[1]}); },
                  [=] { return naive_supervised(matrix_of(x), std::vector<std::int64_t>(7, 2), 3); },
                  1});
}

void add_guided(std::vector<LossRow>& rows) {
  const Tensor q = random_values({6, 4}, 7), t = random_values({6, 4}, 8), hard = random_values({12, 4}, 9),
               gq = random_values({6, 3}, 10), gt = random_values({6, 3}, 11), ghard = random_values({12, 3}, 12);
  const auto row = [&](const std::string& name, const Tensor& targets, const Tensor& guide, const GistOptions& options,
                       const Ids& ids = {}) {
    GistOptions with = options;
    with.equal_targets.target_ids = tensor_of(ids);
    rows.push_back({"gist_loss" + name,
                    {q, targets, scalar(4)},
                    [=](Span x) {
                      GistOptions own = with;
                      own.scale = x[2];
                      return gist_loss(x[0], x[1], gq, guide, own);
                    },
                    [=] { return naive_gist(q, targets, gq, guide, 4, options, ids); }});
  };
  row("", t, gt, {});
  row(", hard negatives", hard, ghard, {});
  row(", margin", t, gt, {.margin = 0.3});
  row(", relative margin", hard, ghard, {.margin = 0.1, .relative = true});
  row(", equal targets", t, gt, {.margin = -0.5}, {1, 2, 1, 3, 2, 1});
  row(", equal hard negatives", hard, ghard, {.margin = -0.5}, {1, 2, 1, 1, 5, 2, 5, 6, 7, 8, 5, 5});
}

void add_matryoshka(std::vector<LossRow>& rows) {
  const Tensor a = random_values({5, 6}, 13), b = random_values({5, 6}, 14);
  const auto cut = [](const Tensor& t, std::int64_t width) {
    Matrix m = matrix_of(t);
    std::vector<double> values;
    for (auto& row : m) {
      row.resize(static_cast<std::size_t>(width));
      const double length = std::sqrt(dot(row, row));
      for (const double v : row) values.push_back(v / length);
    }
    return Tensor::from(values, {t.size(0), width});
  };
  rows.push_back({"matryoshka",
                  {a, b, scalar(3)},
                  [](Span x) {
                    const Variable scale = x[2];
                    return matryoshka([&](Span r) { return info_nce(r[0], r[1], {.scale = scale}); }, x.first(2),
                                      {.widths = {6, 2, 3}, .weights = {1, 0.5, 2}});
                  },
                  [=] {
                    return contrast(logits_of(cut(a, 6), cut(b, 6), 3), 1) +
                           0.5 * contrast(logits_of(cut(a, 2), cut(b, 2), 3), 1) +
                           2 * contrast(logits_of(cut(a, 3), cut(b, 3), 3), 1);
                  }});
}

void add_late_interaction(std::vector<LossRow>& rows, std::int64_t n, std::int64_t width) {
  const auto tokens = [&](std::int64_t samples, std::int64_t count, std::uint64_t seed) {
    return unit_rows(samples * count, width, seed).reshape({samples, count, width});
  };
  const Tensor q = tokens(n, 3, 15), d = tokens(n, 6, 16), many = tokens(2 * n, 6, 17);
  Tensor query_mask = Tensor::full({n, 3}, 1, DType::kBool), mask = Tensor::full({2 * n, 6}, 1, DType::kBool);
  for (std::int64_t i = 1; i < n; i += 4) {
    for (const int token : {0, 2}) query_mask.mutable_data<bool>()[3 * i + token] = false;
  }
  for (std::int64_t i = 0; i < 2 * n; i += 8) {
    for (const int at : {0, 5, 13, 14, 15, 16, 17, 40, 47}) {
      if (6 * i + at < mask.numel()) mask.mutable_data<bool>()[6 * i + at] = false;
    }
  }
  const auto beside = [](const Tensor& m, const Variable& x) {
    return m.defined() && x.defined() ? m.to(x.device()) : m;
  };
  const auto maxsim = [&](const std::string& name, const Tensor& own, const Tensor& documents, const Tensor& other,
                          const Ids& document_ids) {
    const Ids ids = repeated(document_ids, documents.size(0));
    const ops::EqualTargets equal{.target_ids = tensor_of(ids)};
    add(
        rows, "maxsim_loss" + name, {q, documents, scalar(0.8)},
        [=](Span x, const Tiles& tiles) {
          return maxsim_loss(x[0], beside(own, x[0]), x[1], beside(other, x[1]),
                             {.scale = x[2], .equal_targets = equal, .tiles = tiles});
        },
        [=] { return naive_maxsim(q, own, documents, other, 0.8, ids); });
  };
  maxsim("", {}, d, {}, {});
  maxsim(", masked, hard negatives", query_mask, many, mask, {});
  maxsim(", equal documents", {}, d, {}, {3, 4, 3, 3});
  maxsim(", masked, equal hard negatives", query_mask, many, mask, {1, 1, 2, 5, 1, 2, 1, 9});
}

}  // namespace

std::vector<LossRow> loss_rows(std::int64_t samples, std::int64_t width) {
  std::vector<LossRow> rows;
  add_pairwise(rows, samples, width);
  add_late_interaction(rows, samples, width);
  add_supervised(rows);
  add_guided(rows);
  add_matryoshka(rows);
  return rows;
}

}  // namespace tapecache::testing
