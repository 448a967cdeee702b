#include "tapecache/distributed/mpi/call_log.h"

#include <string_view>

#include <fmt/format.h>

#include "tapecache/distributed/mpi/mpi_calls.h"

namespace tapecache::distributed::detail {

namespace {

constexpr std::size_t kCallsKept = 8;

std::uint64_t signature_of(const Call& call) {
  std::uint64_t hash = 0;
  for (const std::string_view text : {std::string_view(call.name), std::string_view(call.what)}) {
    for (const char c : text) hash = mixed(hash, static_cast<unsigned char>(c));
  }
  return hash;
}

std::string text_of(const Call& call) {
  if (call.to < 0) return call.name + call.what;
  return fmt::format("{} of {} bytes to rank {}", call.name, call.bytes, call.to);
}

std::string joined(std::string all, const std::string& more) { return all.empty() ? more : all + "; " + more; }

}  // namespace

std::uint64_t mixed(std::uint64_t a, std::uint64_t b) {
  std::uint64_t z = a * 0x9E3779B97F4A7C15u + b + 0x632BE59BD9B4E019u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

CallLog::CallLog(int rank, int size)
    : rank_(rank),
      size_(size),
      answers_(static_cast<std::size_t>(size)),
      left_after_(static_cast<std::size_t>(size), -1) {}

void CallLog::begin(const Call& call) {
  ++calls_;
  made_.push_back({calls_, signature_of(call), call});
  if (made_.size() > kCallsKept) made_.pop_front();
  forget_answers();
  in_call_ = true;
}

void CallLog::expect(int from, std::size_t bytes) {
  expected_from_ = from;
  expected_ = bytes;
}

Notice CallLog::question() const {
  Notice notice;
  notice.kind = Notice::kAsk;
  notice.number = calls_;
  return notice;
}

Notice CallLog::answer(const Notice& asked) const {
  Notice notice;
  notice.kind = Notice::kAnswer;
  notice.number = asked.number;
  notice.calls = calls_;
  notice.in_call = in_call_;
  if (!made_.empty()) notice.set_text(text_of(made_.back().call));
  for (const Made& made : made_) {
    if (made.number != asked.number) continue;
    notice.known = 1;
    notice.signature = made.signature;
    notice.to = made.call.to;
    notice.bytes = made.call.bytes;
    notice.set_text(text_of(made.call));
  }
  return notice;
}

Notice CallLog::farewell() const {
  Notice notice;
  notice.kind = Notice::kLeft;
  notice.calls = calls_;
  return notice;
}

void CallLog::forget_answers() {
  for (Answer& answer : answers_) answer = {};
}

void CallLog::take_answer(const Notice& answered, int from) {
  if (!in_call_ || answered.number != calls_) return;  // too late to matter
  const std::string text(answered.text);
  answers_[static_cast<std::size_t>(from)] = {true, answered.calls, answered.in_call != 0, text};
  const Made& own = made_.back();
  if (!answered.known) return;
  if (answered.signature != own.signature) {
    throw Broken{fmt::format("rank {} calls {}, but this rank {}", from, text, text_of(own.call))};
  }
  if (from != expected_from_ || own.call.to < 0) return;  // those of a barrier have neither receiver nor bytes
  if (answered.to != rank_ || answered.bytes != expected_) {
    throw Broken{fmt::format("rank {} calls {}, but this rank is to receive {} bytes from it", from, text, expected_)};
  }
}

void CallLog::take_farewell(const Notice& farewell, int from) {
  left_after_[static_cast<std::size_t>(from)] = static_cast<std::int64_t>(farewell.calls);
}

void CallLog::throw_if_one_has_left() const {
  for (int other = 0; other < size_; ++other) {
    const std::int64_t calls = left_after_[static_cast<std::size_t>(other)];
    if (calls < 0 || static_cast<std::uint64_t>(calls) >= calls_) continue;
    throw Broken{fmt::format("rank {} has ended after {} calls, and this is call {}", other, calls, calls_)};
  }
}

bool CallLog::all_have_left() const {
  for (int other = 0; other < size_; ++other) {
    if (other != rank_ && left_after_[static_cast<std::size_t>(other)] < 0) return false;
  }
  return true;
}

std::string CallLog::late_ranks() const {
  std::string late;
  for (int other = 0; other < size_; ++other) {
    const Answer& answer = answers_[static_cast<std::size_t>(other)];
    if (other == rank_ || (answer.given && answer.calls >= calls_)) continue;
    if (!answer.given) {
      late = joined(late, fmt::format("rank {}, which does not answer", other));
    } else {
      late = joined(late, fmt::format("rank {}, which {} call {}{}{}", other, answer.in_call ? "is in" : "has made",
                                      answer.calls, answer.last.empty() ? "" : ", ", answer.last));
    }
  }
  return late;
}

}  // namespace tapecache::distributed::detail
