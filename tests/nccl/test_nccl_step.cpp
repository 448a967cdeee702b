#include <memory>
#include <string>
#include <vector>

#include "../cuda/cuda_device.h"
#include "gradcache_checks.h"
#include "ranks.h"
#include "tapecache/gradcache/step.h"
#include "tapecache/losses/losses.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::testing;
using distributed::over_nccl;

namespace {

enum class Of { kClip, kSupCon, kMaxsim };

struct Kind {
  bool direct = false, shared = false, by_host = false;
  Of loss = Of::kClip;
};

/// The loss by whole tensors, or shared where there are ranks.
Loss loss_of(Of kind, const Parameter& log_scale, const Tensor& labels, Communicator* ranks) {
  const losses::Scale scale = losses::Scale::from_log(log_scale);
  return [=](std::span<const Variable> r) {
    if (kind == Of::kClip) return losses::clip_loss(r[0], r[1], {.scale = scale, .communicator = ranks});
    if (kind == Of::kSupCon) {
      return losses::sup_con(ops::multiply(r[0], r[1]), labels, {.scale = scale, .communicator = ranks});
    }
    const auto tokens = [](const Variable& x) { return ops::reshape(x, {x.size(0), 2, x.size(1) / 2}); };
    return losses::maxsim_loss(tokens(r[0]), {}, tokens(r[1]), {}, {.scale = scale, .communicator = ranks});
  };
}

/// A step of a small CLIP on the device; its ranks are those of threads, by NCCL, or, to compare, by way of the host.
Program clip_on_device(Kind kind, StepOptions options, DType dtype = DType::kFloat64) {
  return [=](Communicator* threads, const Slice& slice) {
    const ClipSetup setup(13, dtype, 0.3);
    for (Parameter p : setup.parameters()) p.move_to(kCuda);
    std::unique_ptr<Communicator> by_nccl;
    if (threads != nullptr && !kind.by_host) by_nccl = over_nccl(*threads, kCuda);
    StepOptions own = options;
    own.device = kCuda;
    own.communicator = kind.by_host ? threads : by_nccl.get();
    own.shared_loss = kind.shared && threads != nullptr;
    Tensor classes = Tensor::zeros({setup.images.size(0)}, DType::kInt64);
    for (std::int64_t i = 0; i < classes.size(0); ++i) classes.mutable_data<std::int64_t>()[i] = i % 3;
    const Loss loss =
        loss_of(kind.loss, setup.log_scale, slice(0, classes).to(kCuda), kind.shared ? own.communicator : nullptr);
    const std::vector<Tower> towers{{"image", slice(0, setup.images).to(kCuda), setup.image},
                                    {"text", slice(1, setup.texts).to(kCuda), setup.text}};
    Run run{kind.direct ? direct_step(towers, loss, own.direct()) : cached_step(towers, loss, own), setup.parameters()};
    if (kind.shared) run.result.representations.clear();  // of this rank alone
    return run;
  };
}

}  // namespace

BOOST_AUTO_TEST_SUITE(nccl_step)

BOOST_AUTO_TEST_CASE(a_cached_step_on_devices_is_that_of_one_process) {
  for (const std::int64_t chunk : {3, 13}) check_ranks(clip_on_device({}, {{chunk}}), {13, 13});
  check_ranks(clip_on_device({}, {.cut = {3}, .reproducible_block = 1}, DType::kFloat32), {13, 13}, 1e-5);
}

BOOST_AUTO_TEST_CASE(a_direct_step_and_a_shared_loss_are_those_of_one_process) {
  check_ranks(clip_on_device({.direct = true}, {}), {13, 13});
  for (const bool direct : {false, true}) {
    for (const Of loss : {Of::kClip, Of::kSupCon, Of::kMaxsim}) {
      check_ranks(clip_on_device({.direct = direct, .shared = true, .loss = loss}, {{4}}), {13, 13});
    }
  }
}

BOOST_AUTO_TEST_CASE(representations_are_off_the_device) {
  check_ranks(clip_on_device({}, {.cut = {3}, .offload = true}), {13, 13});
}

BOOST_AUTO_TEST_CASE(ranks_by_nccl_are_those_by_way_of_the_host) {
  const std::vector<std::vector<std::int64_t>> counts{uneven(13, 3), uneven(13, 3)};
  const std::vector<Outcome> here = outcomes_of(clip_on_device({}, {{3}}), 3, counts),
                             by_host = outcomes_of(clip_on_device({.by_host = true}, {{3}}), 3, counts);
  check_as_alone(here, by_host[0], 1e-13);
}

BOOST_AUTO_TEST_CASE(a_failure_in_a_step_is_that_of_all_ranks_and_the_group_goes_on) {
  run_in_threads(
      3,
      [](Communicator& threads) {
        const auto ranks = over_nccl(threads, kCuda);
        const ClipSetup setup(6);
        for (Parameter p : setup.parameters()) p.move_to(kCuda);
        bool fails = true;
        const auto image = [&](const Tensor& x) {
          if (fails && ranks->rank() == 1) throw ValueError("a picture that is none");
          return setup.image(x);
        };
        const std::int64_t first = 2 * ranks->rank();
        const std::vector<Tower> towers{{"image", setup.images.slice(first, first + 2).to(kCuda), image},
                                        {"text", setup.texts.slice(first, first + 2).to(kCuda), setup.text}};
        StepOptions options{.cut = {1}, .communicator = ranks.get()};
        options.device = kCuda;
        try {
          cached_step(towers, setup.loss(), options);
          require(false, "a step without a picture");
        } catch (const Error& error) {
          require(std::string(error.what()).find("a picture that is none") != std::string::npos, error.what());
        }
        for (const Parameter& p : setup.parameters()) require(!p.gradient().defined(), "no gradient");
        fails = false;
        require(cached_step(towers, setup.loss(), options).status == StepStatus::kDone, "the next step");
      },
      kLimit);
}

/// A tree of ranks adds on the device what it adds on the host: to the same bits for any number of ranks.
BOOST_AUTO_TEST_CASE(reproducible_segments) {
  const StepOptions options{.cut = {2}, .reproducible_segments = 4};
  const Outcome alone = outcome_of(clip_on_device({}, options), nullptr, {});
  for (const bool by_host : {false, true}) {
    for (const std::vector<std::int64_t>& counts : {std::vector<std::int64_t>{6, 7}, {3, 3, 3, 4}}) {
      const int size = static_cast<int>(counts.size());
      const std::vector<Outcome> found =
          outcomes_of(clip_on_device({.by_host = by_host}, options), size, {counts, counts});
      check_as_alone(found, alone, 0);
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
