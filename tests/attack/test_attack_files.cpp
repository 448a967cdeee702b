#include <cstdint>
#include <filesystem>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "attack.h"
#include "checks.h"
#include "compare.h"
#include "folder.h"
#include "pairs_file.h"
#include "tapecache/data/npy.h"
#include "tapecache/train/metrics.h"

using namespace tapecache;
using namespace tapecache::program;
using namespace tapecache::testing;

namespace {

/// What this process has open: what a failed read leaves open would be more each time.
double open_files() {
  return static_cast<double>(
      std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator()));
}

double length_of(const std::vector<std::string>& texts) {
  double length = 0;
  for (const std::string& text : texts) length = 3 * length + static_cast<double>(text.size());
  return length;
}
double length_of(const Pairs& pairs) {
  return length_of(pairs.anchors) + 5 * length_of(pairs.positives) + 7 * length_of(pairs.negatives);
}

// Longer than what a string holds in itself.
const std::string kTable =
    "anchor,positive,negative_1,negative_2\n"
    "\"a long question, with a comma\",\"an answer of \"\"some\"\" length\",a wrong answer as long,another wrong one\n"
    "the second question of the table,the second answer of the table,what is wrong about it,and what else is\n";
const std::string kObjects =
    "{\"anchor\": \"the question of an object\", \"positive\": \"its answer, which is long\", \"negative\": "
    "[\"a wrong answer of a list\", \"and the other of the list\"]}\n"
    "{\"anchor\": \"a second question, long too\", \"positive\": \"and a second answer to it\", \"negative\": "
    "[\"whose wrong answers are long\", \"as is the last of them all\"]}\n";

}  // namespace

/// Files of arrays, pairs, texts and events: read or written whole, or not at all, and closed.
BOOST_FIXTURE_TEST_SUITE(attack_files, Folder)

BOOST_AUTO_TEST_CASE(arrays) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    const Tensor values = random_values({7, 5}, 1).to(dtype), other = random_values({9}, 2).to(dtype);
    data::write_npy(*this / "read.npy", values);
    const Work read{"read_npy", {}, [] {}, [&] { return sum_of(data::read_npy(*this / "read.npy")); }, 0, open_files};
    BOOST_TEST(attack(read, Memory::kObjects) > 5);
    BOOST_TEST(attack(read, Memory::kTensors) > 0);
    std::filesystem::create_directory(*this / "written");
    const std::filesystem::path file = *this / "written/a.npy";
    const Work write{"write_npy",
                     {{}, {}, {}, *this / "written"},
                     [&] { data::write_npy(file, other); },
                     [&] { return data::write_npy(file, values), 0; },
                     0,
                     open_files};
    BOOST_TEST(attack(write, Memory::kObjects) > 5);
    std::filesystem::remove_all(*this / "written");
  }
}

BOOST_AUTO_TEST_CASE(pairs_that_stay_in_their_file) {
  put(*this / "pairs.csv", kTable);
  put(*this / "pairs.jsonl", kObjects);
  for (const char* name : {"pairs.csv", "pairs.jsonl"}) {
    const std::filesystem::path path = *this / name;
    const Work open{std::string("PairsFile of ") + name,
                    {},
                    [] {},
                    [&] { return static_cast<double>(PairsFile(path).fingerprint() % 1000); },
                    0,
                    open_files};
    BOOST_TEST(attack(open, Memory::kObjects, 2) > 20);
    const Work all{std::string("read_pairs of ") + name,        {}, [] {},
                   [&] { return length_of(read_pairs(path)); }, 0,  open_files};
    BOOST_TEST(attack(all, Memory::kObjects, 2) > 20);

    const PairsFile file(path);
    const std::vector<std::int64_t> rows{1, 0, 1};
    const Work read{std::string("PairsFile::read of ") + name, {}, [] {}, [&] { return length_of(file.read(rows)); }};
    BOOST_TEST(attack(read, Memory::kObjects) > 20);
  }
}

/// What could not be taken out is there as before.
BOOST_AUTO_TEST_CASE(pairs_that_are_taken_out) {
  put(*this / "pairs.csv", kTable);
  const std::vector<std::int64_t> taken{0};
  std::optional<PairsFile> file;
  const Work take{"PairsFile::take_out",
                  {},
                  [&] {
                    file.reset();
                    file.emplace(*this / "pairs.csv");
                  },
                  [&] {
                    try {
                      return length_of(file->take_out(taken)) + static_cast<double>(file->size());
                    } catch (...) {
                      const std::vector<std::int64_t> both{0, 1};
                      if (file->size() != 2 || file->anchor_numbers().size() != 2) {
                        throw std::logic_error("some were taken out");
                      }
                      if (file->read(both).anchors.front().front() != 'a') throw std::logic_error("others are there");
                      throw;
                    }
                  }};
  BOOST_TEST(attack(take, Memory::kObjects) > 5);
}

BOOST_AUTO_TEST_CASE(texts) {
  put(*this / "texts.txt", "the first text, which is long enough\nthe second, which is as long as it\n");
  const Work read{"read_texts", {}, [] {}, [&] { return length_of(read_texts(*this / "texts.txt")); }, 0, open_files};
  BOOST_TEST(attack(read, Memory::kObjects) > 5);
}

/// A record that could not be made is not begun.
BOOST_AUTO_TEST_CASE(events) {
  std::optional<train::EventFile> file;
  const auto size = [&] {
    file->flush();
    return std::filesystem::file_size(file->path());
  };
  const Work add{"EventFile::scalar",
                 {},
                 [&] { file.emplace(path()); },
                 [&] {
                   const auto before = size();
                   try {
                     file->scalar("the name of a number that is long", 1, 0.5);
                   } catch (...) {
                     if (size() != before) throw std::logic_error("a part of a record is there");
                     throw;
                   }
                   return static_cast<double>(size() - before);
                 }};
  BOOST_TEST(attack(add, Memory::kObjects) > 3);
}

BOOST_AUTO_TEST_SUITE_END()
