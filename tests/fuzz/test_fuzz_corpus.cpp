#include <boost/test/unit_test.hpp>

#include "folder.h"
#include "targets.h"

using namespace tapecache::testing;

BOOST_AUTO_TEST_SUITE(fuzz_corpus)

/// What fuzzing has found worth keeping: a target that ends the program fails the suite.
BOOST_AUTO_TEST_CASE(every_kept_input_is_taken_or_refused) {
  const std::filesystem::path corpus = TAPECACHE_FUZZ_CORPUS;
  for (const FuzzTarget& target : fuzz_targets()) {
    int count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(corpus / target.name)) {
      BOOST_TEST_CONTEXT(entry.path().string()) {
        target.run(contents(entry.path()));
        BOOST_TEST(true);
      }
      ++count;
    }
    BOOST_TEST(count > 0, target.name << " has no kept input");
    for (const std::string& seed : target.seeds()) target.run(seed);
  }
}

BOOST_AUTO_TEST_SUITE_END()
