#include <span>
#include <vector>

#include "op_error_cases.h"
#include "tapecache/ops/update.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {

std::vector<ErrorCase> update_cases() {
  return {
      error<ShapeError>("adamw_update_moment",
                        [](Given&) {
                          ops::AdamWParameter p{Tensor::zeros({3}), Tensor::zeros({3}), Tensor::zeros({2}),
                                                Tensor::zeros({3})};
                          ops::adamw_update({}, std::span(&p, 1));
                        },
                        {"adamw_update:", "m", "[2]", "[3]"}),
      error<ShapeError>("sgd_update_gradient",
                        [](Given&) {
                          ops::SgdParameter p{Tensor::zeros({4}), Tensor::zeros({3}), Tensor::zeros({3})};
                          ops::sgd_update({}, std::span(&p, 1));
                        },
                        {"sgd_update:", "gradient", "[4]", "[3]"}),
      error<Error>("adamw_update_undefined_gradient",
                   [](Given&) {
                     ops::AdamWParameter p{{}, Tensor::zeros({3}), Tensor::zeros({3}), Tensor::zeros({3})};
                     ops::adamw_update({}, std::span(&p, 1));
                   },
                   {"adamw_update:", "gradient", "undefined"}),
      error<ValueError>("adamw_update_steps_of_some",
                        [](Given&) {
                          const Tensor zeros = Tensor::zeros({3});
                          ops::AdamWParameter some[] = {{zeros, zeros, zeros, zeros}, {zeros, zeros, zeros, zeros}};
                          some[0].steps = whole({});
                          ops::adamw_update({}, some);
                        },
                        {"adamw_update:", "steps", "all or none"}),
      error<DTypeError>("squared_norm_integers",
                        [](Given&) {
                          const Tensor t = whole({2});
                          ops::squared_norm(std::span(&t, 1));
                        },
                        {"squared_norm:", "int64"}),
  };
}

const ErrorTests tests({update_cases()}, __FILE__);

}  // namespace
