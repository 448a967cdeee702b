#include "checks.h"
#include "folder.h"

#include <string>
#include <vector>

#include "csv.h"
#include "image_files.h"
#include "pairs_file.h"
#include "tapecache/core/error.h"
#include "text_file.h"

using namespace tapecache;
using namespace tapecache::program;
using namespace tapecache::testing;

namespace {

using Table = std::vector<std::vector<std::string>>;

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

void check_texts(const std::vector<std::string>& found, const std::vector<std::string>& expected) {
  BOOST_CHECK_EQUAL_COLLECTIONS(found.begin(), found.end(), expected.begin(), expected.end());
}

}  // namespace

BOOST_AUTO_TEST_SUITE(text_files)

BOOST_AUTO_TEST_CASE(places_are_lines_and_characters) {
  const TextFile file("f",
                      "\xEF\xBB\xBF"
                      "a\n\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80x");
  BOOST_CHECK_EQUAL(file.contents().substr(0, 2), "a\n");
  BOOST_CHECK_EQUAL(std::string(file.error(0, "what").what()), "f: line 1, column 1: what");
  BOOST_CHECK_EQUAL(std::string(file.error(2, "what").what()), "f: line 2, column 1: what");
  BOOST_CHECK_EQUAL(std::string(file.error(11, "what").what()), "f: line 2, column 4: what");
}

BOOST_AUTO_TEST_CASE(what_is_utf8) {
  for (const char* right : {"", "a", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80",
                            "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF", "a\xEF\xBB\xBF"}) {
    BOOST_CHECK_NO_THROW(TextFile("f", right));
  }
  for (const char* wrong :
       {"\x80", "\xC0\xAF", "\xC1\xBF", "\xC3", "\xC3(", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xE2\x82", "\xE2\x82(",
        "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\xF0\x9F\x98"}) {
    BOOST_CHECK_EXCEPTION(TextFile("f", std::string("ok\nab") + wrong), FileError,
                          says({"f: line 2, column 3", "UTF-8"}));
  }
  BOOST_CHECK_EXCEPTION(TextFile("f", std::string("a\0b", 3)), FileError, says({"line 1, column 2", "NUL"}));
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

BOOST_AUTO_TEST_CASE(rows_between_tabs) {
  BOOST_CHECK((rows_of("a\tsay \"hi\"\n\"b\tc,d\n", TableFormat::kTsv) == Table{{"a", "say \"hi\""}, {"\"b", "c,d"}}));
}

BOOST_AUTO_TEST_CASE(broken_rows) {
  BOOST_CHECK_EXCEPTION(rows_of("a,b\nc,\"d\n"), FileError, says({"t: line 2, column 3", "never closed"}));
  BOOST_CHECK_EXCEPTION(rows_of("a,b\nc,d\"e\"\n"), FileError, says({"t: line 2, column 4", "quote within"}));
  BOOST_CHECK_EXCEPTION(rows_of("a,b\n\"x\ny\"z,d\n"), FileError, says({"t: line 3, column 3", "behind a closing"}));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_FIXTURE_TEST_SUITE(pairs_files, Folder)

BOOST_AUTO_TEST_CASE(columns_by_known_names) {
  put(*this / "p.csv", "id,Positive,query,negative_2,negative_1\n1,pa,qa,na2,na1\n2,pb,\"q,b\",nb2,nb1\n");
  const Pairs pairs = read_pairs(*this / "p.csv");
  check_texts(pairs.anchors, {"qa", "q,b"});
  check_texts(pairs.positives, {"pa", "pb"});
  check_texts(pairs.negatives, {"na2", "na1", "nb2", "nb1"});
  BOOST_CHECK_EQUAL(pairs.hard_negatives, 2);
  const Pairs second = pairs.select({1});
  check_texts(second.anchors, {"q,b"});
  check_texts(second.negatives, {"nb2", "nb1"});
}

BOOST_AUTO_TEST_CASE(columns_that_are_chosen) {
  put(*this / "p.tsv", "id\tname\tabout\n1\tfoo\tthe \"foo\"\n");
  const Pairs pairs = read_pairs(*this / "p.tsv", {.columns = {"name", "about"}});
  check_texts(pairs.anchors, {"foo"});
  check_texts(pairs.positives, {"the \"foo\""});
  BOOST_CHECK_EXCEPTION(read_pairs(*this / "p.tsv"), FileError,
                        says({"p.tsv", "'id', 'name', 'about'", "--columns", "--no-header"}));
  BOOST_CHECK_EXCEPTION(read_pairs(*this / "p.tsv", {.columns = {"name", "abot"}}), FileError,
                        says({"no column 'abot'", "'id', 'name', 'about'"}));
  BOOST_CHECK_EXCEPTION(read_pairs(*this / "p.tsv", {.columns = {"name", "name"}}), FileError, says({"twice"}));
  BOOST_CHECK_EXCEPTION(read_pairs(*this / "p.tsv", {.columns = {"name"}}), FileError, says({"found 1 column,"}));
}

BOOST_AUTO_TEST_CASE(tables_without_a_header) {
  put(*this / "p.tsv", "a\tb\tc\nd\te\tf\n");
  const Pairs all = read_pairs(*this / "p.tsv", {.header = false});
  check_texts(all.anchors, {"a", "d"});
  check_texts(all.negatives, {"c", "f"});
  const Pairs chosen = read_pairs(*this / "p.tsv", {.columns = {"3", "1"}, .header = false});
  check_texts(chosen.anchors, {"c", "f"});
  check_texts(chosen.positives, {"a", "d"});
  BOOST_CHECK_EQUAL(chosen.hard_negatives, 0);
}

BOOST_AUTO_TEST_CASE(json_lines) {
  put(*this / "p.jsonl",
      "{\"query\": \"q\\u00e4\", \"pos\": \"p1\", \"neg\": [\"n1\", \"n2\"], \"id\": 7}\n\n"
      "{\"id\": 8, \"neg\": [\"n3\", \"n4\"], \"pos\": \"p2\\n\", \"query\": \"q2\"}");
  const Pairs pairs = read_pairs(*this / "p.jsonl");
  check_texts(pairs.anchors, {"q\xC3\xA4", "q2"});
  check_texts(pairs.positives, {"p1", "p2\n"});
  check_texts(pairs.negatives, {"n1", "n2", "n3", "n4"});
}

BOOST_AUTO_TEST_CASE(images_and_captions) {
  std::filesystem::create_directory(*this / "pictures");
  for (const char* name : {"pictures/a.png", "pictures/b.jpg", "c.png"}) put(*this / name, "");
  put(*this / "p.csv", "id,filepath,Title\n1,pictures/a.png,\"of\ntwo lines\"\n2,pictures/b.jpg,b\n3," +
                           (*this / "c.png").string() + ",c\n");
  const Pairs pairs = read_pairs(*this / "p.csv");
  BOOST_CHECK(pairs.images);
  check_texts(pairs.anchors, {"pictures/a.png", "pictures/b.jpg", (*this / "c.png").string()});
  check_texts(pairs.positives, {"of\ntwo lines", "b", "c"});
  const Pairs chosen = pairs.select({2, 0});
  BOOST_CHECK(chosen.images);
  BOOST_CHECK_EQUAL(chosen.image(0).path, *this / "c.png");
  BOOST_CHECK_EQUAL(chosen.image(1).path, *this / "pictures/a.png");
  BOOST_CHECK_EQUAL(chosen.image(0).where, (*this / "p.csv").string() + ": line 5");
  BOOST_CHECK_EQUAL(chosen.image(1).where, (*this / "p.csv").string() + ": line 2");
  // Texts count before images, and what is asked for before both.
  put(*this / "q.tsv", "query\tpositive\timage\tcaption\nq\tp\tc.png\tc\n");
  BOOST_CHECK(!read_pairs(*this / "q.tsv").images);
  check_texts(read_pairs(*this / "q.tsv", {.image = "image"}).positives, {"c"});
  check_texts(read_pairs(*this / "q.tsv", {.caption = "positive"}).anchors, {"c.png"});
  put(*this / "r.tsv", "c.png\tsea\n");
  check_texts(read_pairs(*this / "r.tsv", {.image = "1", .caption = "2", .header = false}).positives, {"sea"});
  BOOST_CHECK_EXCEPTION(read_pairs(*this / "r.tsv", {.image = "1", .header = false}), FileError,
                        says({"which column has the captions", "--caption-column"}));
  BOOST_CHECK_EXCEPTION(read_pairs(*this / "q.tsv", {.image = "picture"}), FileError, says({"no column 'picture'"}));
  put(*this / "s.csv", "image,text\nc.png,a\n\nd.png,b\n");
  BOOST_CHECK_EXCEPTION(read_pairs(*this / "s.csv"), FileError, says({"s.csv: line 4, column 1", "no file", "d.png"}));
}

BOOST_AUTO_TEST_CASE(lists_of_images) {
  std::filesystem::create_directories(*this / "all/deep");
  for (const char* name : {"all/b.PNG", "all/deep/a.jpeg", "all/a.jpg", "all/notes.txt", "x.png"})
    put(*this / name, "");
  const auto names = [&](const std::vector<ImageFile>& files) {
    std::vector<std::string> found;
    for (const ImageFile& file : files) found.push_back(std::filesystem::relative(file.path, path()).string());
    return found;
  };
  check_texts(names(list_images(*this / "all")), {"all/a.jpg", "all/b.PNG", "all/deep/a.jpeg"});
  put(*this / "all/list.txt", "b.PNG\n../x.png\n");
  check_texts(names(list_images(*this / "all/list.txt")), {"all/b.PNG", "x.png"});
  put(*this / "all/list.csv", "id,file_name\n1,a.jpg\n2,c.jpg\n");
  BOOST_CHECK_EXCEPTION(list_images(*this / "all/list.csv"), FileError, says({"list.csv: row 2", "no file", "c.jpg"}));
  std::filesystem::create_directory(*this / "none");
  BOOST_CHECK_EXCEPTION(list_images(*this / "none"), FileError, says({"none", "holds no .jpg"}));
}

BOOST_AUTO_TEST_CASE(broken_rows_name_line_and_column) {
  struct Case {
    const char* name;
    const char* contents;
    std::vector<std::string> words;
  };
  const std::string good = "{\"anchor\": \"a\", \"positive\": \"b\"}\n";
  const std::vector<Case> cases{
      {"p.csv", "anchor,positive\na,b\nc\n", {"p.csv: line 3, column 1", "found 1 value in", "expected 2"}},
      {"p.csv", "anchor,positive\na,b\nc,d,e\n", {"p.csv: line 3, column 5", "found 3 values", "expected 2"}},
      {"p.csv", "anchor,positive\na,\" \n\"\n", {"p.csv: line 2, column 3", "empty", "--skip-empty"}},
      {"p.csv", "anchor,positive\n", {"holds no pair"}},
      {"p.csv", "", {"cannot tell", "nothing"}},
      {"p.csv", "anchor,anchor\na,b\n", {"line 1, column 8", "twice"}},
      {"p.csv", "anchor,positive\na,\xFF\n", {"line 2, column 3", "0xff", "UTF-8"}},
      {"p.jsonl",
       "{\"anchor\": \"a\", \"positive\": \"b\"}\n{\"anchor\": \"a\" \"positive\"}\n",
       {"p.jsonl: line 2, column", "JSON"}},
      {"p.jsonl",
       "{\"anchor\": \"a\", \"positive\": \"b\"}\n[1]\n",
       {"p.jsonl: line 2, column 1", "array", "an object"}},
      {"p.jsonl", "{\"anchor\": \"a\", \"positive\": \"b\", \"n\": 1e999}\n", {"line 1, column 1", "1e999"}},
      {"p.jsonl", "{\"anchor\": \"a\", \"positive\": \"b\"}\n{\"anchor\": \"a\"}\n", {"line 2", "no 'positive'"}},
      {"p.jsonl",
       "{\"anchor\": \"a\", \"positive\": \"b\"}\n{\"anchor\": \"a\", \"positive\": 3}\n",
       {"line 2, column 17", "'positive' is a JSON number"}},
      {"p.jsonl",
       "{\"anchor\": \"a\", \"positive\": \"b\"}\n{\"anchor\": [\"a\", \"c\"], \"positive\": \"b\"}\n",
       {"line 2, column 2", "list of 2"}},
      {"p.jsonl",
       "{\"anchor\":\"a\",\"positive\":\"b\",\"neg\":[\"c\"]}\n{\"anchor\":\"a\",\"positive\":\"b\",\"neg\":[]}\n",
       {"line 2", "found 0 hard negatives, expected 1"}},
      {"p.parquet", "", {"'.parquet'", ".csv, .tsv or .jsonl"}},
  };
  for (const Case& c : cases) {
    put(*this / c.name, c.contents);
    BOOST_CHECK_EXCEPTION(read_pairs(*this / c.name), FileError, says(c.words));
  }
}

BOOST_AUTO_TEST_CASE(rows_with_an_empty_text_may_be_passed_over) {
  put(*this / "p.csv", "anchor,positive,negative\na,b,c\n,b,c\na,b,\"\t\"\nd,e,f\n");
  const Pairs pairs = read_pairs(*this / "p.csv", {.skip_empty = true});
  BOOST_CHECK_EQUAL(pairs.skipped, 2);
  check_texts(pairs.anchors, {"a", "d"});
  check_texts(pairs.negatives, {"c", "f"});
  put(*this / "p.csv", "anchor,positive\n,b\n");
  BOOST_CHECK_EXCEPTION(read_pairs(*this / "p.csv", {.skip_empty = true}), FileError, says({"no pair", "1 rows"}));
}

BOOST_AUTO_TEST_CASE(texts) {
  put(*this / "t.txt", "one, \"two\"\r\nthree\n");
  check_texts(read_texts(*this / "t.txt"), {"one, \"two\"", "three"});
  put(*this / "t.txt", "one\n\nthree");
  BOOST_CHECK_EXCEPTION(read_texts(*this / "t.txt"), FileError, says({"line 2, column 1", "empty"}));
  put(*this / "t.csv", "id,text\n1,a\n2,b\n");
  check_texts(read_texts(*this / "t.csv"), {"a", "b"});
  check_texts(read_texts(*this / "t.csv", {.column = "id"}), {"1", "2"});
  put(*this / "t.jsonl", "{\"words\": \"a\"}\n{\"words\": \"b\"}\n");
  check_texts(read_texts(*this / "t.jsonl"), {"a", "b"});
  put(*this / "t.csv", "id,words\n1,a\n");
  BOOST_CHECK_EXCEPTION(read_texts(*this / "t.csv"), FileError, says({"'id', 'words'", "--column"}));
  put(*this / "t.txt", "");
  BOOST_CHECK_EXCEPTION(read_texts(*this / "t.txt"), FileError, says({"holds no text"}));
}

BOOST_AUTO_TEST_SUITE_END()
