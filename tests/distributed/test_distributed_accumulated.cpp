#include <boost/test/unit_test.hpp>

#include <limits>
#include <string>
#include <vector>

#include "gradcache_checks.h"
#include "halves.h"
#include "ranks.h"

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

/// Sizes of the groups that ranks cut their shares into.
std::vector<std::int64_t> groups_of(const std::vector<std::int64_t>& shares, std::int64_t chunk) {
  std::vector<std::int64_t> sizes;
  for (std::int64_t left : shares) {
    for (; left > 0; left -= sizes.back()) sizes.push_back(std::min(left, chunk));
  }
  return sizes;
}

std::vector<Tensor> cut(const Tensor& samples, const std::vector<std::int64_t>& sizes) {
  std::vector<Tensor> parts;
  std::int64_t begin = 0;
  for (const std::int64_t size : sizes) {
    parts.push_back(samples.slice(begin, begin + size));
    begin += size;
  }
  return parts;
}

/// One process has the groups of all ranks.
Program accumulating(const std::vector<std::int64_t>& shares, std::int64_t chunk, DType dtype = DType::kFloat64) {
  return [=](Communicator* ranks, const Slice& slice) {
    const ClipSetup setup(14, dtype, 0.3);
    const auto tower = [&](std::size_t t, const char* name, const Tensor& samples, const Encoder& encoder) {
      const auto encode = with_size(encoder, name, 0.2);
      if (ranks != nullptr) return Tower(name, slice(t, samples), encode);
      return Tower::from_chunks(name, cut(samples, groups_of(shares, chunk)), encode);
    };
    const std::vector<Tower> towers{tower(0, "image", setup.images, setup.image),
                                    tower(1, "text", setup.texts, setup.text)};
    const Loss loss = [&](const Representations& r) {
      return ops::add(setup.loss()(r), ops::scale(ops::sum(ops::multiply(setup.image.w2, setup.image.w2)), 0.01));
    };
    const AccumulatedOptions options{.chunk_sizes = {chunk}, .scale = 1.5, .communicator = ranks};
    accumulated_step(towers, loss, options);  // gradients of before
    begin_random_step(11, 5);
    return Run{accumulated_step(towers, loss, options), setup.parameters()};
  };
}

/// How each of two ranks ends a step in which something of rank 1's is wrong.
std::vector<std::string> endings_of(const std::function<StepResult(Communicator&, const ClipSetup&)>& step) {
  std::vector<std::string> texts(2);
  run_in_threads(
      2,
      [&](Communicator& ranks) {
        const ClipSetup setup(8, DType::kFloat64, 0.2);
        begin_random_step(1, 2);
        try {
          const StepResult result = step(ranks, setup);
          texts[static_cast<std::size_t>(ranks.rank())] = result.status == StepStatus::kDone ? "done" : result.message;
        } catch (const Error& error) {
          texts[static_cast<std::size_t>(ranks.rank())] = error.what();
        }
        for (const Parameter& p : setup.parameters()) require(!p.gradient().defined(), "a gradient is left");
        ranks.barrier();
      },
      kLimit);
  return texts;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(distributed_accumulated)

BOOST_AUTO_TEST_CASE(groups_of_all_ranks_are_those_of_one_process) {
  for (const std::vector<std::int64_t>& shares :
       {std::vector<std::int64_t>{14}, {7, 7}, {3, 11}, {5, 1, 8}, {2, 4, 4, 4}}) {
    const int size = static_cast<int>(shares.size());
    for (const std::int64_t chunk : {2, 3, 14}) {
      const Program program = accumulating(shares, chunk);
      check_as_alone(outcomes_of(program, size, {shares}), outcome_of(program, nullptr, {}), 1e-12);
    }
    const Program in_f32 = accumulating(shares, 4, DType::kFloat32);
    check_as_alone(outcomes_of(in_f32, size, {shares}), outcome_of(in_f32, nullptr, {}), 1e-5);
  }
}

BOOST_AUTO_TEST_CASE(a_step_makes_one_reduction_and_gathers_nothing) {
  using Calls = std::vector<std::string>;
  const std::vector<Calls> all = results_of<Calls>(2, [](Communicator& ranks) {
    Calls calls;
    Watched watched(ranks, [&](const std::string& call, const Tensor& of) {
      if (is_floating(of.dtype())) calls.push_back(call + " " + describe(of));
    });
    const ClipSetup setup(8);
    accumulated_step(halves(ranks, setup), setup.loss(), {.chunk_sizes = {1}, .communicator = &watched});
    return calls;
  });
  // Loss and what is not finite, then all gradients.
  for (const Calls& calls : all) {
    BOOST_TEST(calls == (Calls{"reduce float64 [2] on cpu", "reduce float64 [141] on cpu"}),
               boost::test_tools::per_element());
  }
}

BOOST_AUTO_TEST_CASE(what_fails_on_one_rank_fails_on_all, *boost::unit_test::precondition(on_threads)) {
  const auto step = [](Communicator& ranks, const ClipSetup& setup, const Loss& loss) {
    return accumulated_step(halves(ranks, setup), loss, {.chunk_sizes = {2}, .communicator = &ranks});
  };
  std::vector<std::string> texts = endings_of([&](Communicator& ranks, const ClipSetup& setup) {
    int group = 0;
    return step(ranks, setup, [&](const Representations& r) {
      if (++group == 2 && ranks.rank() == 1) throw ValueError("the milk is sour");
      return setup.loss()(r);
    });
  });
  BOOST_TEST(texts[0] == "accumulated_step: rank 1 of 2: the milk is sour");
  BOOST_TEST(texts[1] == "the milk is sour");
  texts = endings_of([&](Communicator& ranks, const ClipSetup& setup) {
    if (ranks.rank() == 1) {
      Tensor images = setup.images;
      images.mutable_data<double>()[7 * 5] = std::numeric_limits<double>::quiet_NaN();
    }
    return step(ranks, setup, setup.loss());
  });
  BOOST_TEST(texts[0] == texts[1]);
  BOOST_TEST(texts[0].find("in group 1: the loss is nan") != std::string::npos, texts[0]);
}

BOOST_AUTO_TEST_CASE(refuses_what_ranks_do_not_have_in_common, *boost::unit_test::precondition(on_threads)) {
  const auto both = [](const std::vector<std::string>& texts, const std::string& expected) {
    BOOST_TEST(texts[0] == expected);
    BOOST_TEST(texts[1] == expected);
  };
  both(endings_of([](Communicator& ranks, const ClipSetup& setup) {
         return accumulated_step(halves(ranks, setup), setup.loss(),
                                 {.chunk_sizes = {2}, .scale = 1.0 + ranks.rank(), .communicator = &ranks});
       }),
       "accumulated_step: rank 1 of 2 has another scale than rank 0: 2 in the place of 1");
  both(endings_of([](Communicator& ranks, const ClipSetup& setup) {
         if (ranks.rank() == 1) {
           Tensor scale = setup.log_scale.value();
           scale.mutable_data<double>()[0] = 1.75;
         }
         return accumulated_step(halves(ranks, setup), setup.loss(), {.chunk_sizes = {2}, .communicator = &ranks});
       }),
       "accumulated_step: rank 1 of 2 has other values of parameter 'log_scale' than rank 0");
  const std::vector<std::string> texts = endings_of([](Communicator& ranks, const ClipSetup& setup) {
    const Slice slice(ranks.rank(), {{8, 0}});
    const std::vector<Tower> towers{{"image", slice(0, setup.images), setup.image},
                                    {"text", slice(1, setup.texts), setup.text}};
    return accumulated_step(towers, setup.loss(), {.chunk_sizes = {2}, .communicator = &ranks});
  });
  BOOST_TEST(texts[1] == "accumulated_step: tower 'image' has no samples");
  BOOST_TEST(texts[0] == "accumulated_step: rank 1 of 2: accumulated_step: tower 'image' has no samples");
}

BOOST_AUTO_TEST_SUITE_END()
