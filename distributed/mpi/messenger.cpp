#include "tapecache/distributed/mpi/messenger.h"

#include <sched.h>

#include <algorithm>
#include <new>
#include <utility>

#include <fmt/format.h>

#include "tapecache/distributed/communicator.h"
#include "tapecache/distributed/exception_text.h"
#include "tapecache/distributed/mpi/process.h"

namespace tapecache::distributed::detail {

using namespace std::chrono_literals;

namespace {

constexpr std::size_t kPiece = std::size_t{1} << 20;
/// Who waits so long asks whom it waits for: one that called something else would be waited for until the deadline.
constexpr auto kFirstAsk = 500ms;
/// A core is given up at once, and slept beside after that.
constexpr auto kAwake = 5ms;

std::size_t pieces_of(std::size_t bytes, bool even_empty) {
  return std::max<std::size_t>((bytes + kPiece - 1) / kPiece, even_empty ? 1 : 0);
}

std::size_t piece_bytes(std::size_t bytes, std::size_t piece) { return std::min(bytes - piece * kPiece, kPiece); }

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
  notices_ = NoticeBox(copy_of(world, deadline, limit), rank_, size_);
  int* tag = nullptr;
  int found = 0;
  check_mpi("MPI_Comm_get_attr", MPI_Comm_get_attr(data_, MPI_TAG_UB, &tag, &found));
  largest_tag_ = found ? *tag : 32767;
  for (auto& piece : pieces_) piece.resize(kPiece);
  log_ = CallLog(rank_, size_);
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
    log_.begin(call_);
    deadline_ = Clock::now() + limit_;
    throw_if_failed();
    work();
  } catch (Broken& broken) {
    error = std::move(broken.message);
  } catch (...) {
    error = words_of_exception();
  }
  log_.end();
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
    notices_.post_to_others(log_.farewell());
    const auto deadline = Clock::now() + limit_;
    while (!log_.all_have_left()) {
      serve();
      throw_if_failed();
      if (limit_.count() > 0 && Clock::now() > deadline) return;
      std::this_thread::sleep_for(200us);
    }
    notices_.flush(Clock::now() + 1s);
    notices_.free();
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
  const std::uint64_t key = log_.key();
  const auto tag = [&](std::size_t bytes) {
    return static_cast<int>(mixed(key, even_empty ? bytes : 0) % static_cast<std::uint64_t>(largest_tag_ + 1L));
  };
  log_.expect(even_empty ? received.from : -1, received.bytes);
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
      log_.forget_answers();
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
  const std::string late = log_.late_ranks();
  if (late.empty()) {
    return fmt::format("call {} has not ended within {} ms, though all ranks are in it", log_.calls(), limit_.count());
  }
  return fmt::format("call {} has waited {} ms for {}", log_.calls(), limit_.count(), late);
}

void Messenger::serve() {
  tell_failure();
  while (const auto arrived = notices_.next()) take(arrived->notice, arrived->from);
  notices_.flush({});
  if (log_.in_call()) log_.throw_if_one_has_left();
}

void Messenger::tell_failure() {
  {
    const std::lock_guard lock(mutex_);
    if (!tells_) return;
    notices_.set_last_words(failed_);
  }
  const auto told = [&] {
    const std::lock_guard lock(mutex_);
    tells_ = false;
    changed_.notify_all();
  };
  try {
    notices_.send_last_words(Clock::now() + 500ms);
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
  switch (notice.kind) {
    case Notice::kAsk:
      notices_.post(log_.answer(notice), from);
      break;
    case Notice::kAnswer:
      log_.take_answer(notice, from);
      break;
    case Notice::kFailed:
      break_off(fmt::format("rank {} gave up: {}", from, notice.text), false);
      break;
    case Notice::kLeft:
      log_.take_farewell(notice, from);
      break;
  }
}

void Messenger::ask(int rank) {
  if (rank < 0 || rank == rank_) return;
  notices_.post(log_.question(), rank);
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
