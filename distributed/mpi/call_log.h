#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "tapecache/distributed/mpi/notice.h"

#pragma GCC visibility push(hidden)

namespace tapecache::distributed::detail {

/// What a rank calls.
struct Call {
  const char* name = "";
  std::string what;       ///< of its arguments that every rank's are alike
  int to = -1;            ///< of send_receive
  std::size_t bytes = 0;  ///< of send_receive
};

/// Two hashes as one.
std::uint64_t mixed(std::uint64_t a, std::uint64_t b);

/// The last calls of this rank, and what the others say of theirs. Ranks that do not make the same calls in the same
/// order find out by comparing them, and who waits too long learns whom for.
class CallLog {
 public:
  CallLog() = default;
  CallLog(int rank, int size);

  void begin(const Call& call);
  void end() { in_call_ = false; }
  bool in_call() const { return in_call_; }
  /// How many calls this rank has begun.
  std::uint64_t calls() const { return calls_; }
  /// Alike on all ranks that make the same call as their n-th.
  std::uint64_t key() const { return mixed(calls_, made_.back().signature); }

  /// The call receives from a rank which is to send so many bytes, and to say so; from -1: none.
  void expect(int from, std::size_t bytes);

  /// What this rank asks, and says when it is asked.
  Notice question() const;
  Notice answer(const Notice& asked) const;
  Notice farewell() const;

  void forget_answers();
  /// Throws Broken where the other rank's call is another.
  void take_answer(const Notice& answered, int from);
  void take_farewell(const Notice& farewell, int from);

  /// Throws Broken where a rank makes no more calls, and has not made this one.
  void throw_if_one_has_left() const;
  bool all_have_left() const;
  /// The ranks that are not in this call, and what they do, as far as they answer; empty where all are.
  std::string late_ranks() const;

 private:
  struct Made {
    std::uint64_t number = 0;
    std::uint64_t signature = 0;
    Call call;
  };
  /// Of another rank.
  struct Answer {
    bool given = false;
    std::uint64_t calls = 0;
    bool in_call = false;
    std::string last;
  };

  int rank_ = 0, size_ = 1;
  std::deque<Made> made_;
  std::vector<Answer> answers_;
  std::vector<std::int64_t> left_after_;  // calls; -1: has not left
  std::uint64_t calls_ = 0;
  bool in_call_ = false;
  int expected_from_ = -1;
  std::size_t expected_ = 0;
};

}  // namespace tapecache::distributed::detail

#pragma GCC visibility pop
