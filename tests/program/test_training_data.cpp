#include "checks.h"
#include "folder.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "held_out.h"
#include "metrics_log.h"
#include "parameter_groups.h"
#include "retrieval_task.h"
#include "tapecache/data/batch_order.h"

using namespace tapecache;
using namespace tapecache::program;
using namespace tapecache::testing;
using data::BatchOrder;

namespace {

using Rows = std::vector<std::int64_t>;

}  // namespace

BOOST_AUTO_TEST_SUITE(training_data)

BOOST_AUTO_TEST_CASE(an_epoch_has_every_pair_at_most_once) {
  BatchOrder order(10, 3, 7);
  BOOST_CHECK_EQUAL(order.steps_per_epoch(), 3);
  std::set<std::int64_t> seen;
  std::vector<Rows> first;
  for (std::int64_t step = 0; step < 3; ++step) {
    first.push_back(order.rows(step));
    seen.insert(first.back().begin(), first.back().end());
  }
  BOOST_CHECK_EQUAL(seen.size(), 9u);
  BOOST_CHECK(*seen.begin() >= 0 && *seen.rbegin() < 10);
  BOOST_CHECK(order.rows(3) != first[0]);
  BOOST_CHECK(order.rows(1) == first[1]);                 // back in the epoch before
  BOOST_CHECK(BatchOrder(10, 3, 7).rows(2) == first[2]);  // from anywhere
  BOOST_CHECK(BatchOrder(10, 3, 8).rows(0) != first[0]);
  BOOST_CHECK(BatchOrder(10, 3, 7 + (std::uint64_t{1} << 32)).rows(0) != first[0]);
}

BOOST_AUTO_TEST_CASE(shares_of_ranks_are_the_whole_batch) {
  BatchOrder order(40, 13, 7);
  for (const std::int64_t step : {0, 2, 3}) {
    for (int ranks = 1; ranks <= 5; ++ranks) {
      Rows joined;
      for (int rank = 0; rank < ranks; ++rank) {
        const Rows own = order.rows(step, rank, ranks);
        joined.insert(joined.end(), own.begin(), own.end());
      }
      BOOST_CHECK(joined == order.rows(step));
    }
  }
  BOOST_CHECK_THROW(order.rows(-1), ValueError);
  BOOST_CHECK_THROW(order.rows(0, 2, 2), ValueError);
  BOOST_CHECK_THROW(BatchOrder(10, 11, 7), ValueError);
  BOOST_CHECK_THROW(BatchOrder(10, 0, 7), ValueError);
}

BOOST_AUTO_TEST_CASE(shuffles_are_the_same_everywhere) {
  // As the definitions of std::seed_seq and std::mt19937_64 have it.
  BOOST_CHECK(BatchOrder::shuffled(8, 1, 0) == Rows({7, 6, 0, 5, 2, 3, 1, 4}));
  BOOST_CHECK(BatchOrder::shuffled(8, 2, 3) == Rows({2, 7, 3, 1, 6, 0, 5, 4}));
  BOOST_CHECK(BatchOrder::shuffled(0, 1, 0).empty());
  BOOST_CHECK(BatchOrder::shuffled(1, 1, 0) == Rows{0});
}

BOOST_AUTO_TEST_CASE(pairs_of_one_anchor_are_on_one_side) {
  std::deque<std::uint32_t> anchors;
  for (std::uint32_t i = 0; i < 300; ++i) anchors.push_back(i / 3 * 0x9E3779B9);
  const Rows held = held_out(anchors, 0.2, 1000, 5);
  BOOST_CHECK_EQUAL(held.size(), 60u);
  BOOST_CHECK(std::ranges::is_sorted(held));
  std::set<std::int64_t> rows(held.begin(), held.end());
  BOOST_CHECK_EQUAL(rows.size(), 60u);
  for (const std::int64_t row : held) {
    for (std::int64_t k = row / 3 * 3; k < row / 3 * 3 + 3; ++k) BOOST_CHECK(rows.contains(k));
  }
  BOOST_CHECK_EQUAL(held_out(anchors, 0.2, 10, 5).size(), 9u);
  BOOST_CHECK(held_out(anchors, 0.0, 10, 5).empty());
  BOOST_CHECK(held_out(anchors, 0.2, 1000, 6) != held);
}

BOOST_AUTO_TEST_CASE(searches_count_equal_texts_once) {
  Pairs pairs;
  pairs.anchors = {"q", "r", "q", "q"};
  pairs.positives = {"a", "b", "b", "a"};
  pairs.negatives = {"c", "a", "c", "d"};
  pairs.hard_negatives = 1;
  const RetrievalTask task(pairs);
  BOOST_CHECK(task.queries == std::vector<std::string>({"q", "r"}));
  BOOST_CHECK(task.targets == std::vector<std::string>({"a", "b", "c", "d"}));
  BOOST_CHECK_EQUAL(to_string(task.gold_rows().shape()), "[2, 2]");
  check_equal(task.gold_rows(), {0, 1, 1, -1});
  BOOST_CHECK_EQUAL(to_string(task.reversed_gold_rows().shape()), "[4, 2]");
  check_equal(task.reversed_gold_rows(), {0, -1, 0, 1, -1, -1, -1, -1});
  BOOST_CHECK(task.images.empty());
  const std::uint64_t fingerprint = task.fingerprint();
  BOOST_CHECK_EQUAL(RetrievalTask(pairs).fingerprint(), fingerprint);
  Pairs others = pairs;
  others.positives[1] = "a";
  BOOST_CHECK_NE(RetrievalTask(others).fingerprint(), fingerprint);
  others = pairs;
  others.negatives[0] = "e";
  BOOST_CHECK_NE(RetrievalTask(others).fingerprint(), fingerprint);
}

BOOST_AUTO_TEST_CASE(groups_of_parameters) {
  BOOST_CHECK_EQUAL(group_of("encoder.layer.3.attention.self.query.weight"), "encoder.layer.3");
  BOOST_CHECK_EQUAL(group_of("2.dense.weight"), "2");
  BOOST_CHECK_EQUAL(group_of("embeddings.word_embeddings.weight"), "embeddings.word_embeddings");
  BOOST_CHECK_EQUAL(group_of("layer12.weight"), "layer12");
  BOOST_CHECK_EQUAL(group_of("logit_scale"), "logit_scale");
}

BOOST_FIXTURE_TEST_CASE(metrics_of_a_run_that_goes_on, Folder) {
  {
    MetricsLog log(path());
    for (int step = 1; step <= 3; ++step) log.add("train", step, {{"loss", 0.5 * step}, {"rate", 1e-3}});
    log.add("eval", 3, {{"mrr", NAN}});
  }
  const std::string lines =
      "{\"step\":1,\"kind\":\"train\",\"loss\":0.5,\"rate\":0.001}\n"
      "{\"step\":2,\"kind\":\"train\",\"loss\":1.0,\"rate\":0.001}\n";
  const std::string last = "{\"step\":3,\"kind\":\"train\",\"loss\":1.5,\"rate\":0.001}\n";
  BOOST_CHECK_EQUAL(contents(*this / "metrics.jsonl"), lines + last + "{\"step\":3,\"kind\":\"eval\",\"mrr\":null}\n");
  put(*this / "metrics.jsonl", lines + last + "{\"step\":3,\"ki");  // killed while it wrote
  { MetricsLog log(path(), 3); }
  BOOST_CHECK_EQUAL(contents(*this / "metrics.jsonl"), lines + last);
  { MetricsLog log(path(), 2); }
  BOOST_CHECK_EQUAL(contents(*this / "metrics.jsonl"), lines);
  { MetricsLog log(path()); }
  BOOST_CHECK_EQUAL(contents(*this / "metrics.jsonl"), "");
  BOOST_CHECK_EQUAL(entries(), 5);  // and an event file each
  // TensorBoard takes what is there for undone from a step on: a field 2, the step, and a field 7 whose field 1 is 1.
  const auto undone = [](const std::filesystem::path& file, char step) {
    return contents(file).find(std::string{'\x10', step, '\x3a', '\x02', '\x08', '\x01'}) != std::string::npos;
  };
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(path())) {
    if (entry.path().filename() != "metrics.jsonl") files.push_back(entry.path());
  }
  std::ranges::sort(files);
  BOOST_REQUIRE_EQUAL(files.size(), 4u);
  BOOST_CHECK(contents(files[0]).find("\x3a\x02\x08\x01") == std::string::npos);
  BOOST_CHECK(undone(files[1], 4));
  BOOST_CHECK(undone(files[2], 3));
  BOOST_CHECK(undone(files[3], 0));
}

BOOST_AUTO_TEST_SUITE_END()
