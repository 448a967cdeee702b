// Text files, read piece by piece, and the tables in them.

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "checks.h"
#include "csv.h"
#include "folder.h"
#include "tapecache/core/error.h"
#include "text_file.h"

using namespace tapecache;
using namespace tapecache::program;
using namespace tapecache::testing;

namespace {

using Table = std::vector<std::vector<std::string>>;

/// What a reader gives, line by line.
std::string through(const TextFile& file) {
  std::string all;
  for (TextReader reader(file); !reader.text().empty();) {
    BOOST_REQUIRE_EQUAL(reader.place(), all.size());
    const std::size_t bytes = std::min(reader.text().find('\n'), reader.text().size() - 1) + 1;
    all += reader.text().substr(0, bytes);
    reader.skip(bytes);
  }
  return all;
}

Table rows_of(const std::string& contents, TableFormat format = TableFormat::kCsv) {
  const TextFile file("t", contents);
  TableReader reader(file, format);
  Table rows;
  for (std::vector<Field> row; reader.next(row);) {
    rows.emplace_back();
    for (const Field& field : row) rows.back().push_back(field.text);
  }
  return rows;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(text_files)

BOOST_AUTO_TEST_CASE(places_are_lines_and_characters) {
  const TextFile file("f",
                      "\xEF\xBB\xBF"
                      "a\n\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80x");
  BOOST_CHECK_EQUAL(file.read(0, 2), "a\n");
  BOOST_CHECK_EQUAL(std::string(file.error(0, "what").what()), "f: line 1, column 1: what");
  BOOST_CHECK_EQUAL(std::string(file.error(2, "what").what()), "f: line 2, column 1: what");
  BOOST_CHECK_EQUAL(std::string(file.error(11, "what").what()), "f: line 2, column 4: what");
}

BOOST_AUTO_TEST_CASE(what_is_utf8) {
  for (const char* right : {"", "a", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80",
                            "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF", "a\xEF\xBB\xBF"}) {
    BOOST_CHECK_EQUAL(through(TextFile("f", right)), right);
  }
  for (const char* wrong :
       {"\x80", "\xC0\xAF", "\xC1\xBF", "\xC3", "\xC3(", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xE2\x82", "\xE2\x82(",
        "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\xF0\x9F\x98"}) {
    for (const char* before : {"ok\nab", "ok\nabcdefghi"}) {
      BOOST_CHECK_EXCEPTION(through(TextFile("f", std::string(before) + wrong)), FileError,
                            says({before[5] ? "f: line 2, column 10" : "f: line 2, column 3", "UTF-8"}));
    }
  }
  for (const std::size_t place : {0, 1, 7, 8, 20}) {
    std::string zero(30, 'a');
    zero[place] = '\0';
    BOOST_CHECK_EXCEPTION(through(TextFile("f", zero)), FileError,
                          says({"line 1, column " + std::to_string(place + 1) + ":", "NUL"}));
  }
}

BOOST_FIXTURE_TEST_CASE(files_of_several_pieces, Folder) {
  // Lines of about 100 bytes and one that is longer than two pieces, with characters that no piece's end may cut.
  std::string all = "\xEF\xBB\xBF";
  for (int i = 0; i < 30'000; ++i) {
    all += std::to_string(i) + ' ';
    for (int k = 0; k < (i == 20'000 ? 1'000'000 : 30); ++k) all += "\xE2\x82\xAC";
    all += '\n';
  }
  all += "the end";
  put(*this / "f", all);
  const TextFile file(*this / "f");
  const std::string text = all.substr(3);
  BOOST_CHECK_EQUAL(file.size(), text.size());
  BOOST_CHECK(through(file) == text);
  BOOST_CHECK(file.read(2'000'000, 5'000'000) == text.substr(2'000'000, 3'000'000));
  BOOST_CHECK_EQUAL(std::string(file.error(text.size() - 3, "what").what()),
                    (*this / "f").string() + ": line 30001, column 5: what");
  all[2'999'999] = '\xFF';
  put(*this / "f", all);
  BOOST_CHECK_EXCEPTION(through(TextFile(*this / "f")), FileError, says({"f: line 20001, column ", "UTF-8"}));
}

BOOST_FIXTURE_TEST_CASE(files_that_change, Folder) {
  put(*this / "f", "one\ntwo\n");
  const TextFile file(*this / "f");
  BOOST_CHECK_NO_THROW(file.require_unchanged());
  std::filesystem::last_write_time(*this / "f", std::filesystem::file_time_type::clock::now() + std::chrono::hours(1));
  BOOST_CHECK_EXCEPTION(file.require_unchanged(), FileError, says({"f: has changed since it was opened"}));
  put(*this / "f", "one\n");
  BOOST_CHECK_EXCEPTION(file.require_unchanged(), FileError, says({"f: has changed"}));
  BOOST_CHECK_EXCEPTION(file.read(4, 8), FileError, says({"f: has changed"}));
  // Another file of its name is another file.
  put(*this / "g", "one\ntwo\n");
  const TextFile kept(*this / "g");
  put(*this / "h", "three\n");
  std::filesystem::rename(*this / "h", *this / "g");
  BOOST_CHECK_NO_THROW(kept.require_unchanged());
  BOOST_CHECK_EQUAL(kept.read(4, 8), "two\n");
}

BOOST_FIXTURE_TEST_CASE(files_that_cannot_be_read, Folder) {
  BOOST_CHECK_EXCEPTION(TextFile(*this / "no"), FileError, says({"no: no such file"}));
  BOOST_CHECK_EXCEPTION(TextFile{path()}, FileError, says({"is a folder"}));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(tables)

BOOST_AUTO_TEST_CASE(rows_of_rfc_4180) {
  BOOST_CHECK((rows_of("a,b\nc,d\n") == Table{{"a", "b"}, {"c", "d"}}));
  BOOST_CHECK((rows_of("a,b\r\nc,d") == Table{{"a", "b"}, {"c", "d"}}));
  BOOST_CHECK((rows_of("\"a,1\",\"say \"\"hi\"\"\"\n\"two\r\nlines\",\"\"\n") ==
               Table{{"a,1", "say \"hi\""}, {"two\r\nlines", ""}}));
  BOOST_CHECK((rows_of(",\n\n\r\na,\n") == Table{{"", ""}, {"a", ""}}));
  BOOST_CHECK((rows_of("\"a\"") == Table{{"a"}}));
  BOOST_CHECK((rows_of("a\rb,c") == Table{{"a\rb", "c"}}));
  BOOST_CHECK(rows_of("").empty());
}

BOOST_AUTO_TEST_CASE(rows_that_are_longer_than_a_piece) {
  std::string contents, lines;
  for (int i = 0; i < 500'000; ++i) lines += "a\nb\"\"c\n";
  contents = "before,1\n\"" + lines + "\",2\nbehind,3\n";
  const Table rows = rows_of(contents);
  BOOST_REQUIRE_EQUAL(rows.size(), 3u);
  BOOST_CHECK_EQUAL(rows[1][0].size(), lines.size() - 500'000);
  BOOST_CHECK((rows[2] == std::vector<std::string>{"behind", "3"}));
  contents[contents.size() - 13] = ' ';  // the closing quote
  BOOST_CHECK_EXCEPTION(rows_of(contents), FileError, says({"t: line 2, column 1", "never closed"}));
}

BOOST_AUTO_TEST_CASE(rows_between_tabs) {
  BOOST_CHECK((rows_of("a\tsay \"hi\"\n\"b\tc,d\n", TableFormat::kTsv) == Table{{"a", "say \"hi\""}, {"\"b", "c,d"}}));
}

BOOST_AUTO_TEST_CASE(broken_rows) {
  BOOST_CHECK_EXCEPTION(rows_of("a,b\nc,\"d\n"), FileError, says({"t: line 2, column 3", "never closed"}));
  BOOST_CHECK_EXCEPTION(rows_of("a,b\nc,d\"e\"\n"), FileError, says({"t: line 2, column 4", "quote within"}));
  BOOST_CHECK_EXCEPTION(rows_of("a,b\n\"x\ny\"z,d\n"), FileError, says({"t: line 3, column 3", "behind a closing"}));
}

BOOST_AUTO_TEST_SUITE_END()
