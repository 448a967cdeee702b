#include "tapecache/distributed/mpi/messenger.h"

#include <sched.h>

#include <algorithm>
#include <new>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "tapecache/distributed/communicator.h"
#include "tapecache/distributed/exception_text.h"
#include "tapecache/distributed/mpi/process.h"

namespace tapecache::distributed::detail {

using namespace std::chrono_literals;

namespace {

constexpr std::size_t kPiece = std::size_t{1} << 20;
constexpr int kNoticeTag = 1;
constexpr std::size_t kCallsKept = 8;
/// Who waits so long asks whom it waits for: one that called something else would be waited for until the deadline.
constexpr auto kFirstAsk = 500ms;
/// A core is given up at once, and slept beside after that.
constexpr auto kAwake = 5ms;

std::size_t pieces_of(std::size_t bytes, bool even_empty) {
  return std::max<std::size_t>((bytes + kPiece - 1) / kPiece, even_empty ? 1 : 0);
}

std::size_t piece_bytes(std::size_t bytes, std::size_t piece) { return std::min(bytes - piece * kPiece, kPiece); }

std::uint64_t mixed(std::uint64_t a, std::uint64_t b) {
  std::uint64_t z = a * 0x9E3779B97F4A7C15u + b + 0x632BE59BD9B4E019u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

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

/// No memory of the communication thread's: few enough letters that a string has room for them.
constexpr const char* kNoMemory = "out of memory";

/// Within a handler.
std::string words_of_exception() noexcept {
  try {
    throw;
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  } catch (...) {
    return exception_text();
  }
}

}  // namespace

Messenger::Messenger(MPI_Comm world, bool serves_idle, std::chrono::milliseconds limit)
    : serves_idle_(serves_idle), limit_(limit) {
  check_mpi("MPI_Comm_rank", MPI_Comm_rank(world, &rank_));
  check_mpi("MPI_Comm_size", MPI_Comm_size(world, &size_));
  const auto deadline = Clock::now() + limit;
  data_ = copy_of(world, deadline, limit);
  control_ = copy_of(world, deadline, limit);
  int* tag = nullptr;
  int found = 0;
  check_mpi("MPI_Comm_get_attr", MPI_Comm_get_attr(data_, MPI_TAG_UB, &tag, &found));
  largest_tag_ = found ? *tag : 32767;
  for (auto& piece : pieces_) piece.resize(kPiece);
  answers_.resize(static_cast<std::size_t>(size_));
  left_after_.assign(static_cast<std::size_t>(size_), -1);
  last_words_sent_.assign(static_cast<std::size_t>(size_), MPI_REQUEST_NULL);
  thread_ = start_thread([this] { loop(); });
}

// --- of the program's threads --------------------------------------------------------------------

void Messenger::run(Call call, const std::function<void()>& work) {
  const char* const name = call.name;
  std::unique_lock lock(mutex_);
  if (failed_.empty() && ended_) failed_ = "the communicator has ended";
  if (!failed_.empty()) throw CommunicationError(name, "mpi", rank_, size_, failed_);
  call_ = std::move(call);
  error_.clear();
  work_ = &work;
  changed_.notify_all();
  changed_.wait(lock, [&] { return work_ == nullptr; });
  if (!error_.empty()) throw CommunicationError(name, "mpi", rank_, size_, error_);
}

void Messenger::fail(std::string_view why) noexcept {
  try {
    try {
      break_off(std::string(why), true);
    } catch (const std::bad_alloc&) {
      break_off(kNoMemory, true);
    }
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, 1s, [&] { return !tells_ || ended_; });
  } catch (...) {  // who waits learns from the deadline
  }
}

std::string Messenger::failure() const {
  const std::lock_guard lock(mutex_);
  return failed_;
}

std::string Messenger::leave() {
  {
    const std::lock_guard lock(mutex_);
    leaves_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
  const std::lock_guard lock(mutex_);
  return failed_;
}

void Messenger::break_off(std::string why, bool tell) {
  const std::lock_guard lock(mutex_);
  if (!failed_.empty()) return;
  failed_ = why.empty() ? "for no reason given" : std::move(why);
  failed_at_ = Clock::now();
  tells_ = tell;
  changed_.notify_all();
}

// --- of the communication thread -----------------------------------------------------------------

void Messenger::loop() {
  for (;;) {
    std::unique_lock lock(mutex_);
    const auto is_due = [&] { return work_ != nullptr || tells_ || leaves_; };
    if (serves_idle_) changed_.wait_for(lock, 3ms, is_due);
    else if (failed_.empty()) changed_.wait(lock, is_due);
    else changed_.wait_for(lock, 100ms, is_due);
    const std::function<void()>* const work = work_;
    const bool leaves = leaves_, serves = serves_idle_ || tells_;
    lock.unlock();
    if (work != nullptr) {
      do_call(*work);
    } else if (leaves) {
      do_leave();
      lock.lock();
      ended_ = true;
      changed_.notify_all();
      return;
    } else if (serves) {
      try {
        serve();
      } catch (Broken& broken) {
        break_off(std::move(broken.message), false);
      } catch (...) {  // told next time
        break_off(words_of_exception(), true);
      }
    }
    abort_if_overdue();
  }
}

void Messenger::do_call(const std::function<void()>& work) {
  std::string error;
  try {
    ++calls_;
    made_.push_back({calls_, signature_of(call_), call_});
    if (made_.size() > kCallsKept) made_.pop_front();
    for (Answer& answer : answers_) answer = {};
    deadline_ = Clock::now() + limit_;
    in_call_ = true;
    throw_if_failed();
    work();
  } catch (Broken& broken) {
    error = std::move(broken.message);
  } catch (...) {
    error = words_of_exception();
  }
  in_call_ = false;
  if (!error.empty()) {
    try {
      break_off(fmt::format("{}: {}", call_.name, error), true);
    } catch (const std::bad_alloc&) {
      break_off(kNoMemory, true);
    }
    try_to_tell();
  }
  const std::lock_guard lock(mutex_);
  error_ = std::move(error);
  work_ = nullptr;
  changed_.notify_all();
}

void Messenger::do_leave() {
  try {
    serve();
    throw_if_failed();
    Notice notice;
    notice.kind = Notice::kLeft;
    notice.calls = calls_;
    tell_all(notice);
    const auto deadline = Clock::now() + limit_;
    const auto others_stay = [&] {
      for (int other = 0; other < size_; ++other) {
        if (other != rank_ && left_after_[static_cast<std::size_t>(other)] < 0) return true;
      }
      return false;
    };
    while (others_stay()) {
      serve();
      throw_if_failed();
      if (limit_.count() > 0 && Clock::now() > deadline) return;
      std::this_thread::sleep_for(200us);
    }
    flush(Clock::now() + 1s);
    check_mpi("MPI_Comm_free", MPI_Comm_free(&control_));
    check_mpi("MPI_Comm_free", MPI_Comm_free(&data_));
  } catch (Broken& broken) {
    break_off(std::move(broken.message), false);
  } catch (...) {
    break_off(words_of_exception(), true);
    try_to_tell();
  }
}

void Messenger::throw_if_failed() {
  const std::lock_guard lock(mutex_);
  if (!failed_.empty()) throw Broken{failed_};
}

void Messenger::transfer(const Sent& sent, const Received& received, bool even_empty) {
  const std::size_t out = sent.to < 0 ? 0 : pieces_of(sent.bytes, even_empty);
  const std::size_t in = received.from < 0 ? 0 : pieces_of(received.bytes, even_empty);
  const std::uint64_t key = mixed(calls_, made_.back().signature);
  const auto tag = [&](std::size_t bytes) {
    return static_cast<int>(mixed(key, even_empty ? bytes : 0) % static_cast<std::uint64_t>(largest_tag_ + 1L));
  };
  expected_from_ = even_empty ? received.from : -1;
  expected_ = received.bytes;
  MPI_Request requests[2] = {MPI_REQUEST_NULL, MPI_REQUEST_NULL};
  const auto receive = [&](std::size_t piece) {
    check_mpi("MPI_Irecv", MPI_Irecv(pieces_[piece % 2].data(), kPiece, MPI_BYTE, received.from, tag(received.bytes),
                                     data_, &requests[0]));
  };
  if (in > 0) receive(0);
  for (std::size_t piece = 0; piece < std::max(out, in); ++piece) {
    if (piece < out) {
      check_mpi("MPI_Isend", MPI_Isend(sent.data + piece * kPiece, static_cast<int>(piece_bytes(sent.bytes, piece)),
                                       MPI_BYTE, sent.to, tag(sent.bytes), data_, &requests[1]));
    }
    MPI_Status status[2];
    wait(requests, status, sent, received);
    if (piece >= in) continue;
    const std::size_t expected = piece_bytes(received.bytes, piece);
    int found = 0;
    check_mpi("MPI_Get_count", MPI_Get_count(&status[0], MPI_BYTE, &found));
    if (static_cast<std::size_t>(found) != expected) {
      throw Broken{fmt::format("rank {} sent {} bytes, expected {}", received.from, found, expected)};
    }
    // The next piece comes in while this one is taken.
    if (piece + 1 < in) receive(piece + 1);
    received.take(piece * kPiece, pieces_[piece % 2].data(), expected);
  }
}

void Messenger::wait(MPI_Request* requests, MPI_Status* status, const Sent& sent, const Received& received) {
  const auto begun = Clock::now();
  auto next_ask = begun + kFirstAsk;
  // For the answers of ranks that are able to give any.
  const auto reserve = std::min<Clock::duration>(300ms, limit_ / 4);
  bool asked_all = false;
  for (;;) {
    int done = 0;
    const int code = MPI_Testall(2, requests, &done, status);
    if (code == MPI_ERR_IN_STATUS) {
      for (int i = 0; i < 2; ++i) {
        if (status[i].MPI_ERROR != MPI_ERR_PENDING) check_mpi("MPI_Testall", status[i].MPI_ERROR);
      }
    }
    check_mpi("MPI_Testall", code);
    if (done) return;
    serve();
    throw_if_failed();
    const auto now = Clock::now();
    if (limit_.count() > 0 && now >= deadline_) throw Broken{overdue()};
    if (limit_.count() > 0 && now >= deadline_ - reserve && !asked_all) {
      asked_all = true;
      for (Answer& answer : answers_) answer = {};
      for (int other = 0; other < size_; ++other) ask(other);
    }
    if (now >= next_ask) {
      next_ask = now + 2 * (now - begun);
      ask(sent.to);
      if (received.from != sent.to) ask(received.from);
    }
    if (now - begun < kAwake) sched_yield();
    else std::this_thread::sleep_for(50us);
  }
}

std::string Messenger::overdue() const {
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
  if (late.empty()) {
    return fmt::format("call {} has not ended within {} ms, though all ranks are in it", calls_, limit_.count());
  }
  return fmt::format("call {} has waited {} ms for {}", calls_, limit_.count(), late);
}

void Messenger::serve() {
  tell_failure();
  for (;;) {
    int found = 0;
    MPI_Status status;
    check_mpi("MPI_Iprobe", MPI_Iprobe(MPI_ANY_SOURCE, kNoticeTag, control_, &found, &status));
    if (!found) break;
    Notice notice;
    check_mpi("MPI_Recv",
              MPI_Recv(&notice, sizeof notice, MPI_BYTE, status.MPI_SOURCE, kNoticeTag, control_, MPI_STATUS_IGNORE));
    take(notice, status.MPI_SOURCE);
  }
  flush({});
  if (!in_call_) return;
  for (int other = 0; other < size_; ++other) {
    const std::int64_t calls = left_after_[static_cast<std::size_t>(other)];
    if (calls < 0 || static_cast<std::uint64_t>(calls) >= calls_) continue;
    throw Broken{fmt::format("rank {} has ended after {} calls, and this is call {}", other, calls, calls_)};
  }
}

void Messenger::tell_failure() {
  {
    const std::lock_guard lock(mutex_);
    if (!tells_) return;
    last_words_->kind = Notice::kFailed;
    last_words_->set_text(failed_);
  }
  const auto told = [&] {
    const std::lock_guard lock(mutex_);
    tells_ = false;
    changed_.notify_all();
  };
  const auto until = Clock::now() + 500ms;
  try {
    for (int other = 0; other < size_; ++other) {
      if (other == rank_) continue;
      check_mpi("MPI_Isend", MPI_Isend(last_words_.get(), sizeof(Notice), MPI_BYTE, other, kNoticeTag, control_,
                                       &last_words_sent_[static_cast<std::size_t>(other)]));
    }
    for (int done = 0; !done && Clock::now() < until; sched_yield()) {
      check_mpi("MPI_Testall", MPI_Testall(size_, last_words_sent_.data(), &done, MPI_STATUSES_IGNORE));
    }
    flush(until);
  } catch (...) {
    told();
    throw;
  }
  told();
}

void Messenger::try_to_tell() noexcept {
  try {
    tell_failure();
  } catch (...) {  // what can be told has been
  }
}

void Messenger::take(const Notice& notice, int from) {
  const std::string text(notice.text);
  switch (notice.kind) {
    case Notice::kAsk:
      answer(notice, from);
      break;
    case Notice::kAnswer:
      compare(notice, from);
      break;
    case Notice::kFailed:
      break_off(fmt::format("rank {} gave up: {}", from, text), false);
      break;
    case Notice::kLeft:
      left_after_[static_cast<std::size_t>(from)] = static_cast<std::int64_t>(notice.calls);
      break;
  }
}

void Messenger::ask(int rank) {
  if (rank < 0 || rank == rank_) return;
  Notice notice;
  notice.kind = Notice::kAsk;
  notice.number = calls_;
  post(std::move(notice), rank);
}

void Messenger::answer(const Notice& asked, int to) {
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
  post(std::move(notice), to);
}

void Messenger::compare(const Notice& answered, int from) {
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

void Messenger::post(Notice notice, int to) {
  posted_.push_back({MPI_REQUEST_NULL, std::make_unique<Notice>(std::move(notice))});
  Posted& posted = posted_.back();
  check_mpi("MPI_Isend",
            MPI_Isend(posted.notice.get(), sizeof(Notice), MPI_BYTE, to, kNoticeTag, control_, &posted.request));
}

void Messenger::tell_all(const Notice& notice) {
  for (int other = 0; other < size_; ++other) {
    if (other != rank_) post(notice, other);
  }
}

void Messenger::flush(Clock::time_point until) {
  for (;;) {
    for (auto posted = posted_.begin(); posted != posted_.end();) {
      int done = 0;
      check_mpi("MPI_Test", MPI_Test(&posted->request, &done, MPI_STATUS_IGNORE));
      posted = done ? posted_.erase(posted) : posted + 1;
    }
    if (posted_.empty() || Clock::now() >= until) return;
    sched_yield();
  }
}

void Messenger::abort_if_overdue() {
  {
    const std::lock_guard lock(mutex_);
    if (failed_.empty() || limit_.count() == 0 || Clock::now() < failed_at_ + limit_) return;
  }
  // From now on it does not change.
  try {
    const std::string why = fmt::format("{} ms have passed since a failure: {}", limit_.count(), failed_);
    abort_all(rank_, size_, why.c_str(), 1);
  } catch (const std::bad_alloc&) {
    abort_all(rank_, size_, kNoMemory, 1);
  }
}

}  // namespace tapecache::distributed::detail
