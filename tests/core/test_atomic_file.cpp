#include "checks.h"
#include "folder.h"

#include <atomic>
#include <filesystem>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tapecache/core/error.h"
#include "tapecache/core/files.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {

namespace fs = std::filesystem;

constexpr const char* kLeft = "f.tmp-0123456789abcdef";

mode_t mode_of(const fs::path& path) {
  struct stat found {};
  BOOST_REQUIRE_EQUAL(::stat(path.c_str(), &found), 0);
  return found.st_mode & 07777;
}

/// Another umask for a scope.
class Umask {
 public:
  explicit Umask(mode_t mask) : before_(::umask(mask)) {}
  ~Umask() { ::umask(before_); }
  Umask(const Umask&) = delete;
  Umask& operator=(const Umask&) = delete;

 private:
  mode_t before_;
};

constexpr int kNoNamespaces = 77;

/// Starts a process whose child is process 1 of a namespace of its own, as in a container, and writes texts of one
/// letter.
pid_t start_writer_in_a_namespace(const fs::path& path, char letter) {
  const pid_t started = ::fork();
  if (started != 0) return started;
  if (::unshare(CLONE_NEWPID) != 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWPID) != 0) ::_exit(kNoNamespaces);
  const pid_t writer = ::fork();
  if (writer == 0) {
    int failed = ::getpid() != 1;
    for (int i = 0; i < 50; ++i) {
      try {
        write_file_atomically(path, std::string(300'000, letter));
      } catch (const FileError&) {
        ++failed;
      }
    }
    ::_exit(failed);
  }
  int status = 0;
  const bool ended = writer > 0 && ::waitpid(writer, &status, 0) == writer && WIFEXITED(status);
  ::_exit(ended ? WEXITSTATUS(status) : 1);
}

}  // namespace

BOOST_FIXTURE_TEST_SUITE(atomic_files, Folder)

BOOST_AUTO_TEST_CASE(replaces_the_old_file) {
  write_file_atomically(*this / "f", "old");
  write_file_atomically(*this / "f", "new and longer");
  BOOST_CHECK_EQUAL(contents(*this / "f"), "new and longer");
  BOOST_CHECK_EQUAL(entries(), 1);
}

BOOST_AUTO_TEST_CASE(written_by_two_threads) {
  const std::string texts[] = {std::string(3'000'000, 'a'), std::string(1000, 'b')};
  std::atomic<int> failed = 0;
  std::vector<std::jthread> threads;
  for (const std::string& text : texts) {
    threads.emplace_back([&] {
      for (int i = 0; i < 30; ++i) {
        try {
          write_file_atomically(*this / "f", text);
        } catch (const FileError&) {
          ++failed;
        }
        const std::string found = contents(*this / "f");
        if (found != texts[0] && found != texts[1]) ++failed;
      }
    });
  }
  threads.clear();
  BOOST_CHECK_EQUAL(failed.load(), 0);
  BOOST_CHECK_EQUAL(entries(), 1);
}

BOOST_AUTO_TEST_CASE(written_by_two_processes_of_one_number) {
  write_file_atomically(*this / "f", std::string(300'000, 'a'));
  std::vector<pid_t> writers{start_writer_in_a_namespace(*this / "f", 'a'),
                             start_writer_in_a_namespace(*this / "f", 'b')};
  int torn = 0, without_namespaces = 0;
  while (!writers.empty()) {
    const std::string found = contents(*this / "f");
    torn += found.size() != 300'000 || found.find_first_not_of(found.front()) != std::string::npos;
    int status = 0;
    const pid_t ended = ::waitpid(writers.back(), &status, WNOHANG);
    BOOST_REQUIRE(ended >= 0);
    if (ended == 0) continue;
    writers.pop_back();
    if (WIFEXITED(status) && WEXITSTATUS(status) == kNoNamespaces) ++without_namespaces;
    else BOOST_CHECK_EQUAL(status, 0);
  }
  if (without_namespaces > 0) BOOST_TEST_MESSAGE("this system gives no namespaces of processes");
  BOOST_CHECK_EQUAL(torn, 0);
  BOOST_CHECK_EQUAL(entries(), 1);
}

BOOST_AUTO_TEST_CASE(written_twice_at_once_by_one_process) {
  AtomicFile first(*this / "f"), second(*this / "f");
  BOOST_CHECK_EQUAL(entries(), 2);
  first.write("first"), second.write("second");
  BOOST_CHECK(!fs::exists(*this / "f"));
  second.finish();
  BOOST_CHECK_EQUAL(contents(*this / "f"), "second");
  first.finish();
  BOOST_CHECK_EQUAL(contents(*this / "f"), "first");
  BOOST_CHECK_EQUAL(entries(), 1);
}

BOOST_AUTO_TEST_CASE(one_that_is_not_finished_leaves_nothing) {
  { AtomicFile(*this / "f").write("text"); }
  BOOST_CHECK_EQUAL(entries(), 0);
}

BOOST_AUTO_TEST_CASE(new_files_have_the_mode_of_the_umask) {
  for (const mode_t mask : {002, 022, 077}) {
    const Umask set(mask);
    fs::remove(*this / "f");
    write_file_atomically(*this / "f", "text");
    BOOST_CHECK_EQUAL(mode_of(*this / "f"), 0666 & ~mask);
  }
}

BOOST_AUTO_TEST_CASE(the_mode_of_the_file_before_is_kept) {
  const Umask set(022);
  write_file_atomically(*this / "f", "old");
  for (const mode_t mode : {0600, 0640, 0666, 0755, 0400}) {
    BOOST_REQUIRE_EQUAL(::chmod((*this / "f").c_str(), mode), 0);
    {
      AtomicFile file(*this / "f");
      for (const auto& entry : fs::directory_iterator(path())) {
        if (entry.path().filename() != "f") BOOST_CHECK_EQUAL(mode_of(entry.path()), 0600u);  // none reads it meanwhile
      }
      file.finish();
    }
    BOOST_CHECK_EQUAL(mode_of(*this / "f"), mode);
  }
}

BOOST_AUTO_TEST_CASE(owner_and_group_are_kept) {
  if (::geteuid() != 0) return;  // only root may give a file away
  write_file_atomically(*this / "f", "old");
  BOOST_REQUIRE_EQUAL(::chown((*this / "f").c_str(), 65534, 65533), 0);
  write_file_atomically(*this / "f", "new");
  struct stat found {};
  BOOST_REQUIRE_EQUAL(::stat((*this / "f").c_str(), &found), 0);
  BOOST_CHECK_EQUAL(found.st_uid, 65534u);
  BOOST_CHECK_EQUAL(found.st_gid, 65533u);
}

BOOST_AUTO_TEST_CASE(symbolic_links_stay) {
  fs::create_directory(path() / "runs");
  fs::create_symlink("runs/f", *this / "relative");
  fs::create_symlink("relative", *this / "chain");
  fs::create_symlink(path() / "runs" / "f", *this / "absolute");
  for (const char* name : {"relative", "chain", "absolute"}) {  // at first to a file that is not there
    write_file_atomically(*this / name, name);
    BOOST_CHECK(fs::is_symlink(*this / name));
    BOOST_CHECK_EQUAL(contents(path() / "runs" / "f"), name);
  }
  BOOST_CHECK_EQUAL(entries(), 4);
  BOOST_CHECK_EQUAL(std::distance(fs::directory_iterator(path() / "runs"), fs::directory_iterator()), 1);

  fs::create_symlink("loop", *this / "loop");
  BOOST_CHECK_EXCEPTION(write_file_atomically(*this / "loop", "text"), FileError, says({"loop", "Too many levels"}));
  fs::create_symlink("nowhere/f", *this / "broken");
  BOOST_CHECK_EXCEPTION(write_file_atomically(*this / "broken", "text"), FileError, says({"broken", "No such file"}));
  BOOST_CHECK(fs::is_symlink(*this / "broken"));
}

BOOST_AUTO_TEST_CASE(what_a_killed_writer_left_is_removed) {
  for (const char* name : {kLeft, "f.tmp-ffffffffffffffff"}) put(*this / name, "half");
  const std::vector<std::string> others{
      "g.tmp-0123456789abcdef", "f.tmp-0123456789abcde", "f.tmp-0123456789ABCDEF", "f.tmp-0123456789abcdef0", "f.tmp",
      "ff.tmp-0123456789abcdef"};
  for (const std::string& name : others) put(*this / name, "another's");
  write_file_atomically(*this / "f", "text");
  BOOST_CHECK_EQUAL(entries(), static_cast<std::ptrdiff_t>(others.size()) + 1);
  for (const std::string& name : others) BOOST_CHECK_EQUAL(contents(*this / name), "another's");
  // What a link stands for is cleaned where it is.
  put(*this / kLeft, "half");
  fs::create_directory(path() / "links");
  fs::create_symlink("../f", path() / "links" / "latest");
  write_file_atomically(path() / "links" / "latest", "text");
  BOOST_CHECK(!fs::exists(*this / kLeft));
}

BOOST_AUTO_TEST_CASE(what_is_still_being_written_is_let_be) {
  put(*this / kLeft, "half");
  const int living = ::open((*this / kLeft).c_str(), O_WRONLY);
  BOOST_REQUIRE_EQUAL(::flock(living, LOCK_EX), 0);
  write_file_atomically(*this / "f", "text");
  BOOST_CHECK_EQUAL(contents(*this / kLeft), "half");
  ::close(living);
  write_file_atomically(*this / "f", "text");
  BOOST_CHECK_EQUAL(entries(), 1);
  // A folder or a FIFO of such a name is nobody's.
  fs::create_directory(*this / kLeft);
  BOOST_REQUIRE_EQUAL(::mkfifo((*this / "f.tmp-ffffffffffffffff").c_str(), 0600), 0);
  write_file_atomically(*this / "f", "text");
  BOOST_CHECK_EQUAL(entries(), 3);
}

BOOST_AUTO_TEST_CASE(names_as_long_as_there_may_be) {
  for (const std::size_t length : {234, 235, 255}) {
    const std::string name(length, 'n');
    put(*this / (name.substr(0, 234) + ".tmp-0123456789abcdef"), "half");
    write_file_atomically(*this / name, "text");
    BOOST_CHECK_EQUAL(contents(*this / name), "text");
    fs::remove(*this / name);
    BOOST_CHECK_EQUAL(entries(), 0);
  }
  BOOST_CHECK_EXCEPTION(write_file_atomically(*this / std::string(256, 'n'), "text"), FileError,
                        says({"name too long"}));
}

BOOST_AUTO_TEST_CASE(a_working_folder_that_changes) {
  const fs::path before = fs::current_path();
  fs::create_directory(path() / "inside");
  fs::current_path(path());
  AtomicFile file("f");
  file.write("text");
  fs::current_path(path() / "inside");
  file.finish();
  fs::current_path(before);
  BOOST_CHECK_EQUAL(contents(*this / "f"), "text");
}

BOOST_AUTO_TEST_CASE(special_files_are_not_replaced) {
  BOOST_REQUIRE_EQUAL(::mkfifo((*this / "fifo").c_str(), 0600), 0);
  fs::create_symlink("fifo", *this / "link");
  for (const char* name : {"fifo", "link"}) {
    BOOST_CHECK_EXCEPTION(write_file_atomically(*this / name, "text"), FileError,
                          says({name, "FIFO", "a regular file"}));
  }
  BOOST_CHECK(fs::is_fifo(*this / "fifo"));
  BOOST_CHECK_EQUAL(entries(), 2);
  BOOST_CHECK_EXCEPTION(write_file_atomically(path() / "", "text"), FileError, says({"s a directory"}));
}

BOOST_AUTO_TEST_CASE(creates_parent_folders) {
  write_file_atomically(path() / "a" / "b" / "f", "text");
  BOOST_CHECK_EQUAL(contents(path() / "a" / "b" / "f"), "text");
}

BOOST_AUTO_TEST_CASE(parts_follow_one_another) {
  const std::string_view parts[] = {"one", "", "two", std::string_view("\0", 1)};
  write_file_atomically(*this / "f", parts);
  BOOST_CHECK_EQUAL(contents(*this / "f"), std::string("onetwo\0", 7));
  write_file_atomically(*this / "f", std::span<const std::string_view>{});
  BOOST_CHECK_EQUAL(contents(*this / "f"), "");
}

BOOST_AUTO_TEST_CASE(a_folder_in_its_place) {
  fs::create_directories(path() / "f" / "inside");
  BOOST_CHECK_EXCEPTION(write_file_atomically(*this / "f", "text"), FileError, says({(*this / "f").string()}));
  BOOST_CHECK(fs::is_directory(path() / "f" / "inside"));
  BOOST_CHECK_EQUAL(entries(), 1);
}

BOOST_AUTO_TEST_CASE(a_file_in_place_of_its_folder) {
  write_file_atomically(*this / "f", "old");
  BOOST_CHECK_THROW(write_file_atomically(path() / "f" / "g", "text"), FileError);
  BOOST_CHECK_EQUAL(contents(*this / "f"), "old");
}

BOOST_AUTO_TEST_CASE(a_failed_write_leaves_the_old_file) {
  SafetensorsFile file;
  file.tensors["weight"] = Tensor::zeros({2, 3});
  write_safetensors(*this / "f", file);
  const std::string before = contents(*this / "f");
  SafetensorsFile bad = file;
  bad.metadata["a"] = "\xff";
  BOOST_CHECK_THROW(write_safetensors(*this / "f", bad), FileError);
  BOOST_CHECK(contents(*this / "f") == before);
  BOOST_CHECK_EQUAL(entries(), 1);
}

BOOST_AUTO_TEST_CASE(a_read_only_folder) {
  if (::geteuid() == 0) return;  // root writes anywhere
  write_file_atomically(*this / "f", "old");
  fs::permissions(path(), fs::perms::owner_read | fs::perms::owner_exec);
  BOOST_CHECK_THROW(write_file_atomically(*this / "f", "new"), FileError);
  fs::permissions(path(), fs::perms::owner_all);
  BOOST_CHECK_EQUAL(contents(*this / "f"), "old");
}

BOOST_AUTO_TEST_CASE(where_nothing_can_be_written) {
  BOOST_CHECK_THROW(write_file_atomically("/proc/tapecache/f", "text"), FileError);
  BOOST_CHECK_THROW(write_file_atomically("", "text"), FileError);
}

BOOST_AUTO_TEST_SUITE_END()
