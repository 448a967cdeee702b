#include "tapecache/distributed/mpi/notice_box.h"

#include <sched.h>

#include "tapecache/distributed/mpi/mpi_calls.h"

namespace tapecache::distributed::detail {

namespace {

constexpr int kNoticeTag = 1;

}  // namespace

NoticeBox::NoticeBox(MPI_Comm world, int rank, int size)
    : world_(world),
      rank_(rank),
      size_(size),
      last_words_(std::make_unique<Notice>()),
      last_words_sent_(static_cast<std::size_t>(size), MPI_REQUEST_NULL) {}

void NoticeBox::post(const Notice& notice, int to) {
  posted_.push_back({MPI_REQUEST_NULL, std::make_unique<Notice>(notice)});
  Posted& posted = posted_.back();
  check_mpi("MPI_Isend",
            MPI_Isend(posted.notice.get(), sizeof(Notice), MPI_BYTE, to, kNoticeTag, world_, &posted.request));
}

void NoticeBox::post_to_others(const Notice& notice) {
  for (int other = 0; other < size_; ++other) {
    if (other != rank_) post(notice, other);
  }
}

void NoticeBox::flush(Clock::time_point until) {
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

std::optional<NoticeBox::Arrived> NoticeBox::next() {
  int found = 0;
  MPI_Status status;
  check_mpi("MPI_Iprobe", MPI_Iprobe(MPI_ANY_SOURCE, kNoticeTag, world_, &found, &status));
  if (!found) return std::nullopt;
  std::optional<Arrived> arrived(std::in_place);
  arrived->from = status.MPI_SOURCE;
  check_mpi("MPI_Recv", MPI_Recv(&arrived->notice, sizeof(Notice), MPI_BYTE, status.MPI_SOURCE, kNoticeTag, world_,
                                 MPI_STATUS_IGNORE));
  return arrived;
}

void NoticeBox::set_last_words(std::string_view why) {
  last_words_->kind = Notice::kFailed;
  last_words_->set_text(why);
}

void NoticeBox::send_last_words(Clock::time_point until) {
  for (int other = 0; other < size_; ++other) {
    if (other == rank_) continue;
    check_mpi("MPI_Isend", MPI_Isend(last_words_.get(), sizeof(Notice), MPI_BYTE, other, kNoticeTag, world_,
                                     &last_words_sent_[static_cast<std::size_t>(other)]));
  }
  for (int done = 0; !done && Clock::now() < until; sched_yield()) {
    check_mpi("MPI_Testall", MPI_Testall(size_, last_words_sent_.data(), &done, MPI_STATUSES_IGNORE));
  }
  flush(until);
}

void NoticeBox::free() { check_mpi("MPI_Comm_free", MPI_Comm_free(&world_)); }

}  // namespace tapecache::distributed::detail
