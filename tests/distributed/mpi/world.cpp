// Makes the cases of ../test_distributed_*.cpp and their like run on the processes that an MPI launcher started: each
// compares what it is left with to what one process is, which it works out by itself.
#include <cstdio>
#include <iostream>
#include <memory>
#include <set>
#include <sstream>
#include <string>

#include <boost/test/results_reporter.hpp>
#include <boost/test/unit_test.hpp>

#include "../ranks.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/distributed/mpi.h"

namespace {

using namespace tapecache;
namespace unit_test = boost::unit_test;

/// Of a table of cases the table.
std::string name_of(const unit_test::test_unit& test) {
  const std::string name = test.p_name;
  return name.starts_with('_') ? unit_test::framework::get<unit_test::test_suite>(test.p_parent_id).p_name.get() : name;
}

/// Before the first case the processes find each other, and after the last they part. Rank 0 says what ran, the others
/// what failed.
class Processes final : public unit_test::test_observer {
 public:
  Processes() : group_(distributed::mpi_world(testing::kLimit)) {
    set_thread_count(1);
    testing::world.group = group_.get();
    unit_test::framework::register_observer(*this);
    if (group_->rank() == 0) return;
    unit_test::unit_test_log.set_stream(log_);
    unit_test::results_reporter::set_level(unit_test::NO_REPORT);
  }

  ~Processes() override {
    unit_test::framework::deregister_observer(*this);
    if (group_->rank() != 0) unit_test::unit_test_log.set_stream(std::cout);
    if (failures_ > 0 && group_->rank() != 0) std::fputs(log_.str().c_str(), stderr);
    if (group_->rank() == 0) {
      std::printf("%d cases on %d ranks:", cases_, group_->size());
      for (const std::string& name : ran_) std::printf(" %s", name.c_str());
      std::printf("\nleft out:");
      for (const std::string& name : left_out_) {
        if (!ran_.contains(name)) std::printf(" %s", name.c_str());
      }
      std::printf("\n");
    }
    testing::world.group = nullptr;
  }

 private:
  void test_unit_start(const unit_test::test_unit& test) override {
    if (test.p_type == unit_test::TUT_CASE) testing::world.runs = 0;
  }
  void test_unit_finish(const unit_test::test_unit& test, unsigned long) override {
    if (test.p_type != unit_test::TUT_CASE) return;
    const bool ran = testing::world.runs > 0;
    cases_ += ran ? 1 : 0;
    (ran ? ran_ : left_out_).insert(name_of(test));
  }
  void test_unit_skipped(const unit_test::test_unit& test, unit_test::const_string) override {
    left_out_.insert(name_of(test));
  }
  void assertion_result(unit_test::assertion_result result) override {
    failures_ += result == unit_test::AR_FAILED ? 1 : 0;
  }
  void exception_caught(const boost::execution_exception&) override { ++failures_; }

  std::unique_ptr<distributed::Communicator> group_;
  std::ostringstream log_;
  int cases_ = 0, failures_ = 0;
  std::set<std::string> ran_, left_out_;
};

}  // namespace

BOOST_TEST_GLOBAL_FIXTURE(Processes);
