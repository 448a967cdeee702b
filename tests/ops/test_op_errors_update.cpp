#include <span>
#include <vector>

#include "op_error_cases.h"
#include "tapecache/ops/update.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {

std::vector<ErrorCase> update_cases() {
  return {
      error<ShapeError>(
          "adamw_update_moment",
          [](Given&) {
            ops::AdamWParameter p{Tensor::zeros({3}), Tensor::zeros({3}), Tensor::zeros({2}), Tensor::zeros({3})};
            ops::adamw_update({0.1}, {}, std::span(&p, 1));
          },
          {"adamw_update:", "m", "[2]", "[3]"}),
      error<ShapeError>("sgd_update_gradient",
                        [](Given&) {
                          ops::SgdParameter p{Tensor::zeros({4}), Tensor::zeros({3}), Tensor::zeros({3})};
                          ops::sgd_update({0.1}, {}, std::span(&p, 1));
                        },
                        {"sgd_update:", "gradient", "[4]", "[3]"}),
      error<Error>("adamw_update_undefined_gradient",
                   [](Given&) {
                     ops::AdamWParameter p{{}, Tensor::zeros({3}), Tensor::zeros({3}), Tensor::zeros({3})};
                     ops::adamw_update({0.1}, {}, std::span(&p, 1));
                   },
                   {"adamw_update:", "gradient", "undefined"}),
      error<ShapeError>("adamw_update_without_steps",
                        [](Given&) {
                          const Tensor zeros = Tensor::zeros({3});
                          ops::AdamWParameter p{zeros, zeros, zeros, zeros};
                          ops::adamw_update({0.1}, {}, std::span(&p, 1));
                        },
                        {"adamw_update:", "steps", "undefined", "int64 scalar"}),
      error<DTypeError>("adamw_update_fractional_steps",
                        [](Given&) {
                          const Tensor zeros = Tensor::zeros({3});
                          ops::AdamWParameter p{zeros, zeros, zeros, zeros, 0, Tensor::zeros({})};
                          ops::adamw_update({0.1}, {}, std::span(&p, 1));
                        },
                        {"adamw_update:", "steps", "float32", "int64 scalar"}),
      error<DTypeError>("squared_norm_integers",
                        [](Given&) {
                          const Tensor t = whole({2});
                          ops::squared_norm(std::span(&t, 1));
                        },
                        {"squared_norm:", "int64"}),
  };
}

const ErrorTests tests_of_updates({update_cases()}, __FILE__);

}  // namespace
