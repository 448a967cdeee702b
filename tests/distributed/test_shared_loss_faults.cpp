#include <boost/test/unit_test.hpp>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "ranks.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/losses/losses.h"
#include "tapecache/ops/elementwise.h"

using namespace tapecache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

/// What each rank catches, long before the limit of a call.
std::vector<std::string> messages(int size, const std::function<void(Communicator&)>& work) {
  std::vector<std::string> texts(static_cast<std::size_t>(size));
  const auto begin = std::chrono::steady_clock::now();
  BOOST_CHECK_THROW(run_in_threads(
                        size,
                        [&](Communicator& ranks) {
                          try {
                            work(ranks);
                          } catch (const std::exception& error) {
                            texts[static_cast<std::size_t>(ranks.rank())] = error.what();
                            throw;
                          }
                        },
                        kLimit),
                    std::exception);
  BOOST_TEST((std::chrono::steady_clock::now() - begin < kLimit / 2));
  return texts;
}

struct Views {
  Tape tape;
  Variable a = tape.leaf(random_values({3, 4}, 1)), b = tape.leaf(random_values({3, 4}, 2));
};

void check_named(const std::vector<std::string>& texts, const std::vector<std::string>& words) {
  for (const std::string& text : texts) {
    for (const std::string& word : words) BOOST_TEST(text.find(word) != std::string::npos, text << " lacks " << word);
  }
}

/// clip_loss on three ranks, of which the last has other options.
void check_other_options(const std::function<void(ClipOptions&)>& change, const std::string& what) {
  const std::vector<std::string> texts = messages(3, [&](Communicator& ranks) {
    Views views;
    const Recording recording(views.tape);
    ClipOptions options{.scale = 3, .communicator = &ranks};
    if (ranks.rank() == 2) change(options);
    clip_loss(views.a, views.b, options);
  });
  check_named(texts, {"clip_loss: rank 2 has another " + what});
}

}  // namespace

/// What ranks are told where they differ, one fails, or there is little memory.
BOOST_AUTO_TEST_SUITE(shared_loss_faults)

BOOST_AUTO_TEST_CASE(a_way_of_candidates_that_there_is_not) {
  const auto neither = static_cast<SharedCandidates>(7);
  const auto check = [](const std::string& loss, const std::function<void(Communicator&)>& take) {
    check_named(messages(3, take), {loss + ": ", "candidates is 7, expected kAutomatic, kGathered or kRing"});
  };
  const Variable rows(random_values({3, 4}, 1)), tokens(random_values({3, 2, 4}, 2));
  check("clip_loss", [&](Communicator& ranks) {
    clip_loss(rows, rows, {.scale = 3, .communicator = &ranks, .candidates = neither});
  });
  check("nt_xent", [&](Communicator& ranks) { nt_xent(rows, rows, {.communicator = &ranks, .candidates = neither}); });
  check("sup_con", [&](Communicator& ranks) {
    sup_con(rows, Tensor::zeros({3}, DType::kInt64), {.communicator = &ranks, .candidates = neither});
  });
  check("maxsim_loss", [&](Communicator& ranks) {
    maxsim_loss(tokens, {}, tokens, {}, {.communicator = &ranks, .candidates = neither});
  });
}

BOOST_AUTO_TEST_CASE(a_rank_with_other_options_is_named) {
  check_other_options([](ClipOptions& o) { o.scale = 4; }, "scale than rank 0: 4 in the place of 3");
  check_other_options([](ClipOptions& o) { o.label_smoothing = 0.25; }, "label_smoothing than rank 0: 0.25");
  check_other_options([](ClipOptions& o) { o.hardness = 0.5; }, "hardness than rank 0: 0.5");
  check_other_options([](ClipOptions& o) { o.equal_targets.equal_rows = true; },
                      "kind of equal_targets than rank 0: equal_rows in the place of none");
  check_other_options([](ClipOptions& o) { o.tiles = ops::TileOptions{.columns = 5}; }, "number of columns in a tile");
  check_other_options([](ClipOptions& o) { o.candidates = SharedCandidates::kRing; },
                      "way of candidates than rank 0: kRing in the place of kAutomatic");
}

BOOST_AUTO_TEST_CASE(a_rank_with_another_loss_or_width_is_named) {
  check_named(messages(3,
                       [](Communicator& ranks) {
                         Views views;
                         const Recording recording(views.tape);
                         if (ranks.rank() == 1) nt_xent(views.a, views.b, {.communicator = &ranks});
                         else info_nce(views.a, views.b, {.communicator = &ranks});
                       }),
              {"rank 1 has another loss than rank 0: nt_xent in the place of info_nce"});
  check_named(messages(2,
                       [](Communicator& ranks) {
                         const std::int64_t width = 4 + ranks.rank();
                         const Variable a(random_values({3, width}, 1)), b(random_values({3, width}, 2));
                         siglip_loss(a, b, {.scale = 1, .bias = 0, .communicator = &ranks});
                       }),
              {"siglip_loss: rank 1 has another width than rank 0: 5 in the place of 4"});
  check_named(messages(2,
                       [](Communicator& ranks) {
                         Views views;
                         const Recording recording(views.tape);
                         const bool none = ranks.rank() == 1;
                         info_nce(none ? detach(views.a) : views.a, none ? detach(views.b) : views.b,
                                  {.communicator = &ranks});
                       }),
              {"rank 1 has another recording than rank 0: none in the place of one for backward"});
}

BOOST_AUTO_TEST_CASE(a_rank_with_other_tokens_is_named) {
  const auto maxsim = [](std::int64_t of_query, std::int64_t of_document, bool masked, Communicator& ranks) {
    const Variable queries(random_values({3, of_query, 4}, 1)), documents(random_values({3, of_document, 4}, 2));
    const Tensor mask = masked ? Tensor::full({3, of_document}, 1, DType::kBool) : Tensor();
    maxsim_loss(queries, {}, documents, mask, {.communicator = &ranks});
  };
  check_named(messages(2, [&](Communicator& ranks) { maxsim(2 + ranks.rank(), 5, false, ranks); }),
              {"maxsim_loss: rank 1 has another number of query tokens than rank 0: 3 in the place of 2"});
  check_named(messages(2, [&](Communicator& ranks) { maxsim(2, 5 + ranks.rank(), false, ranks); }),
              {"maxsim_loss: rank 1 has another number of document tokens than rank 0: 6 in the place of 5"});
  check_named(messages(2, [&](Communicator& ranks) { maxsim(2, 5, ranks.rank() == 1, ranks); }),
              {"maxsim_loss: rank 1 has another document_mask than rank 0: one in the place of none"});
  check_named(messages(2,
                       [&](Communicator& ranks) {
                         const Variable tokens(random_values({2, 3, 4}, 1));
                         Tensor mask = Tensor::full({2, 3}, 1, DType::kBool);
                         if (ranks.rank() == 1) mask.slice(1, 2).fill(0);
                         maxsim_loss(tokens, {}, tokens, mask, {.communicator = &ranks});
                       }),
              {"maxsim_loss: document 1 has no valid token"});
}

BOOST_AUTO_TEST_CASE(labels_of_which_no_two_are_equal) {
  check_named(
      messages(3,
               [](Communicator& ranks) {
                 const Tensor labels = Tensor::from<std::int64_t>({2 * ranks.rank(), 2 * ranks.rank() + 1}, {2});
                 sup_con(Variable(random_values({2, 4}, 1)), labels, {.communicator = &ranks});
               }),
      {"sup_con: no two of 6 labels of 3 ranks are equal"});
  check_named(
      messages(
          2,
          [](Communicator& ranks) {
            sup_con(Variable(random_values({2, 4}, 1)), Tensor::zeros({3}, DType::kInt64), {.communicator = &ranks});
          }),
      {"sup_con", "[3]", "[2]"});
}

/// In each case the ring has ranks that wait for the one that gives up.
BOOST_AUTO_TEST_CASE(no_rank_hangs_where_some_throw) {
  for (const SharedCandidates candidates : {SharedCandidates::kGathered, SharedCandidates::kRing}) {
    const auto clip = [=](Communicator& ranks, std::span<const Variable> r) {
      return clip_loss(r[0], r[1],
                       {.scale = 3, .tiles = ops::TileOptions{1, 1}, .communicator = &ranks, .candidates = candidates});
    };
    for (const bool all : {false, true}) {
      const auto throws = [=](const Communicator& ranks) { return all || ranks.rank() == 2; };
      // Between two shared losses.
      const std::vector<std::string> between = messages(4, [&](Communicator& ranks) {
        Views views;
        const Recording recording(views.tape);
        int calls = 0;
        const auto loss = [&](std::span<const Variable> r) {
          if (++calls == 2 && throws(ranks)) throw ValueError("the milk is sour");
          return clip(ranks, r);
        };
        matryoshka(loss, std::vector<Variable>{views.a, views.b}, {.widths = {2, 4}});
      });
      // In backward, after one of the two has gone around.
      const std::vector<std::string> backward = messages(4, [&](Communicator& ranks) {
        Views views;
        Variable sum;
        {
          const Recording recording(views.tape);
          const std::vector<Variable> r{views.a, views.b};
          const Variable first = clip(ranks, r);
          const Variable between_both =
              record("sour", first.value().clone(), {first}, {}, [here = throws(ranks)](Backward& ctx) {
                if (here) throw ValueError("the milk is sour");
                ctx.pass(0, ctx.output_gradient());
              });
          sum = between_both + clip(ranks, r);
        }
        views.tape.backward(sum);
      });
      for (const std::vector<std::string>& texts : {between, backward}) {
        for (std::size_t r = 0; r < texts.size(); ++r) {
          BOOST_TEST(texts[r].find(all || r == 2 ? "sour" : "rank 2 gave up: the milk is sour") != std::string::npos,
                     texts[r]);
        }
      }
    }
  }
}

/// Seven targets a query: with their gradient, all of them would be 7 MiB on each of four ranks, which share 13 MiB.
BOOST_AUTO_TEST_CASE(the_ring_is_taken_where_memory_is_short) {
  constexpr std::int64_t kQueries = 2048, kStep = 7, kWidth = 64;
  const Tensor queries = random_values({kQueries, kWidth}, 1, DType::kFloat32),
               targets = random_values({kQueries * kStep, kWidth}, 2, DType::kFloat32);
  const auto take = [&](int size, SharedCandidates candidates, std::size_t limit) {
    Device::cpu().release_memory_cache();
    const MemoryLimit scope(limit);
    run_in_threads(
        size,
        [&](Communicator& ranks) {
          const std::int64_t begin = kQueries * ranks.rank() / size, end = kQueries * (ranks.rank() + 1) / size;
          Tape tape;
          const Variable q = tape.leaf(queries.slice(begin, end)),
                         t = tape.leaf(targets.slice(begin * kStep, end * kStep));
          Variable loss;
          {
            const Recording recording(tape);
            loss =
                info_nce(q, t, {.tiles = ops::TileOptions{64, 64}, .communicator = &ranks, .candidates = candidates});
          }
          tape.backward(loss);
        },
        kLimit);
  };
  constexpr std::size_t kShort = 13 << 20;
  take(4, SharedCandidates::kGathered, 0);
  take(4, SharedCandidates::kAutomatic, kShort);
  BOOST_CHECK_THROW(take(4, SharedCandidates::kGathered, kShort), Error);
  BOOST_CHECK_THROW(take(3, SharedCandidates::kAutomatic, kShort), Error);
}

BOOST_AUTO_TEST_CASE(no_rank_has_queries) {
  check_named(messages(2,
                       [](Communicator& ranks) {
                         const Variable none(Tensor::zeros({0, 4}, DType::kFloat64));
                         info_nce(none, none, {.communicator = &ranks});
                       }),
              {"info_nce: no rank has queries, expected some"});
}

BOOST_AUTO_TEST_SUITE_END()
