#include "checks.h"
#include "folder.h"

#include <atomic>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <unistd.h>

#include "tapecache/core/atomic_file.h"
#include "tapecache/core/error.h"
#include "tapecache/core/safetensors.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {

namespace fs = std::filesystem;

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
