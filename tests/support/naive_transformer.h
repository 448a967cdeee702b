#pragma once

#include <cmath>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "model_checks.h"
#include "tapecache/models/transformer_block.h"

namespace tapecache::testing {

using Rows = std::vector<std::vector<double>>;

/// Parts of a transformer for one sample, written out over weights by their names.
class NaiveTransformer {
 public:
  explicit NaiveTransformer(std::span<const Parameter> parameters) {
    for (const Parameter& p : parameters) weights_[p.name()] = doubles(p.value());
  }

 protected:
  const std::vector<double>& at(const std::string& name) const { return weights_.at(name); }

  static std::vector<double> mean(const Rows& x) {
    std::vector<double> result(x.front().size(), 0.0);
    for (const auto& row : x) {
      for (std::size_t j = 0; j < row.size(); ++j) result[j] += row[j] / static_cast<double>(x.size());
    }
    return result;
  }

  static void add(Rows& x, const Rows& more) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      for (std::size_t j = 0; j < x[i].size(); ++j) x[i][j] += more[i][j];
    }
  }

  /// Rows of an embedding.
  Rows rows(const std::string& name, const std::vector<std::int32_t>& ids, std::int64_t width) const {
    Rows x;
    for (const std::int32_t id : ids) {
      const double* row = at(name).data() + static_cast<std::int64_t>(id) * width;
      x.emplace_back(row, row + width);
    }
    return x;
  }

  void add_positions(Rows& x, const std::string& name) const {
    std::size_t k = 0;
    for (auto& row : x) {
      for (double& v : row) v += at(name)[k++];
    }
  }

  Rows linear(const Rows& x, const std::string& name) const {
    const std::vector<double>& weight = at(name + ".weight");
    const std::size_t in = x.front().size(), out = weight.size() / in;
    const auto bias = weights_.find(name + ".bias");
    Rows y;
    for (const auto& row : x) {
      y.push_back(bias == weights_.end() ? std::vector<double>(out, 0.0) : bias->second);
      for (std::size_t o = 0; o < out; ++o) {
        for (std::size_t i = 0; i < in; ++i) y.back()[o] += weight[o * in + i] * row[i];
      }
    }
    return y;
  }

  Rows norm(Rows x, const std::string& name, const models::TransformerConfig& c) const {
    for (auto& row : x) {
      const auto n = static_cast<double>(row.size());
      double mean = 0, variance = 0;
      for (const double v : row) mean += v / n;
      for (const double v : row) variance += (v - mean) * (v - mean) / n;
      for (std::size_t j = 0; j < row.size(); ++j) {
        row[j] = (row[j] - mean) / std::sqrt(variance + c.epsilon) * at(name + ".weight")[j] + at(name + ".bias")[j];
      }
    }
    return x;
  }

  Rows attention(const Rows& x, const std::string& name, const models::TransformerConfig& c, bool causal,
                 const models::MultiHeadAttention::Names& names = {}) const {
    const Rows q = linear(x, name + names.query), k = linear(x, name + names.key), v = linear(x, name + names.value);
    const auto width = static_cast<std::size_t>(c.width), head = width / static_cast<std::size_t>(c.heads);
    Rows y(x.size(), std::vector<double>(width, 0.0));
    for (std::size_t first = 0; first < width; first += head) {
      for (std::size_t i = 0; i < x.size(); ++i) {
        const std::size_t seen = causal ? i + 1 : x.size();
        std::vector<double> weights(seen, 0.0);
        double sum = 0;
        for (std::size_t j = 0; j < seen; ++j) {
          for (std::size_t d = first; d < first + head; ++d) weights[j] += q[i][d] * k[j][d];
          sum += weights[j] = std::exp(weights[j] / std::sqrt(static_cast<double>(head)));
        }
        for (std::size_t j = 0; j < seen; ++j) {
          for (std::size_t d = first; d < first + head; ++d) y[i][d] += weights[j] / sum * v[j][d];
        }
      }
    }
    return linear(y, name + names.out);
  }

 private:
  std::map<std::string, std::vector<double>> weights_;
};

}  // namespace tapecache::testing
