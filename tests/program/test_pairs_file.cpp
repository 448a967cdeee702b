#include "pairs_file.h"

#include <chrono>
#include <deque>
#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

#include "checks.h"
#include "folder.h"
#include "image_files.h"
#include "tapecache/core/error.h"

using namespace tapecache;
using namespace tapecache::program;
using namespace tapecache::testing;

namespace {

void check_texts(const std::vector<std::string>& found, const std::vector<std::string>& expected) {
  BOOST_CHECK_EQUAL_COLLECTIONS(found.begin(), found.end(), expected.begin(), expected.end());
}

Pairs read_rows(const PairsFile& file, const std::vector<std::int64_t>& rows) { return file.read(rows); }

}  // namespace

BOOST_FIXTURE_TEST_SUITE(pairs_files, Folder)

BOOST_AUTO_TEST_CASE(columns_by_known_names) {
  put(*this / "p.csv", "id,Positive,query,negative_2,negative_1\n1,pa,qa,na2,na1\n2,pb,\"q,b\",nb2,nb1\n");
  const Pairs pairs = read_pairs(*this / "p.csv");
  check_texts(pairs.anchors, {"qa", "q,b"});
  check_texts(pairs.positives, {"pa", "pb"});
  check_texts(pairs.negatives, {"na2", "na1", "nb2", "nb1"});
  BOOST_CHECK_EQUAL(pairs.hard_negatives, 2);
  const Pairs second = read_rows(PairsFile(*this / "p.csv"), {1});
  check_texts(second.anchors, {"q,b"});
  check_texts(second.negatives, {"nb2", "nb1"});
}

BOOST_AUTO_TEST_CASE(rows_are_read_where_they_stand) {
  put(*this / "p.csv", "positive,query,negative\n\npa,\"q\na\",\"n, \"\"a\"\"\"\r\npb,,nb\npc,qc,nc\npd,qd,nd");
  put(*this / "p.tsv", "a\tb\nc\td\n\ne\tf\n");
  put(*this / "p.jsonl",
      "{\"query\": \"q\\u00e4\", \"pos\": \"p1\", \"neg\": [\"n1\", \"n2\"]}\n\n"
      "{\"neg\": [\"n3\", \"n4\"], \"pos\": \"p2\\n\", \"query\": \"q2\"}");
  for (const char* name : {"p.csv", "p.tsv", "p.jsonl"}) {
    const PairsOptions options{.header = name[2] != 't', .skip_empty = true};
    const Pairs all = read_pairs(*this / name, options);
    const PairsFile file(*this / name, options);
    BOOST_REQUIRE_EQUAL(file.size(), all.size());
    BOOST_CHECK_EQUAL(file.hard_negatives(), all.hard_negatives);
    BOOST_CHECK_EQUAL(file.skipped(), name[2] == 'c' ? 1 : 0);
    std::vector<std::int64_t> rows(static_cast<std::size_t>(all.size()));
    std::iota(rows.begin(), rows.end(), 0);
    const Pairs read = file.read(rows);
    check_texts(read.anchors, all.anchors);
    check_texts(read.positives, all.positives);
    check_texts(read.negatives, all.negatives);
    check_texts(read_rows(file, {1}).anchors, {all.anchors[1]});
  }
  check_texts(read_pairs(*this / "p.csv", {.skip_empty = true}).anchors, {"q\na", "qc", "qd"});
}

BOOST_AUTO_TEST_CASE(pairs_are_taken_out) {
  put(*this / "p.tsv", "query\tpositive\na\t0\nb\t1\na\t2\nc\t3\n");
  PairsFile file(*this / "p.tsv");
  const std::deque<std::uint32_t> numbers = file.anchor_numbers();
  BOOST_CHECK(numbers[0] == numbers[2] && numbers[0] != numbers[1] && numbers[1] != numbers[3]);
  const std::uint64_t fingerprint = file.fingerprint();
  const Pairs taken = file.take_out(std::vector<std::int64_t>{0, 2});
  check_texts(taken.positives, {"0", "2"});
  BOOST_CHECK_EQUAL(file.size(), 2);
  check_texts(read_rows(file, {1, 0}).positives, {"3", "1"});
  BOOST_CHECK_EQUAL(file.fingerprint(), fingerprint);
  put(*this / "q.tsv", "query\tpositive\na\t0\nb\t1\na\t2\nc\t4\n");
  BOOST_CHECK_NE(PairsFile(*this / "q.tsv").fingerprint(), fingerprint);
  // Texts that run into each other are others.
  put(*this / "r.tsv", "query\tpositive\na1\t0\n");
  put(*this / "s.tsv", "query\tpositive\na\t10\n");
  BOOST_CHECK_NE(PairsFile(*this / "r.tsv").fingerprint(), PairsFile(*this / "s.tsv").fingerprint());
}

BOOST_AUTO_TEST_CASE(pairs_of_a_file_that_changes) {
  for (const char* name : {"p.tsv", "p.jsonl"}) {
    const bool table = name[2] == 't';
    const std::string head = table ? "query\tpositive\n" : "",
                      row = table ? "a\tb\n" : "{\"query\":\"a\",\"positive\":\"b\"}\n";
    for (const std::string& changed : {head, head + std::string(row.size(), 'x'), head + row + row}) {
      put(*this / name, head + row);
      const PairsFile file(*this / name);
      check_texts(read_rows(file, {0}).anchors, {"a"});
      put(*this / name, changed);
      std::filesystem::last_write_time(*this / name,
                                       std::filesystem::file_time_type::clock::now() + std::chrono::hours(1));
      BOOST_CHECK_EXCEPTION(read_rows(file, {0}), FileError, says({name, "has changed since it was opened"}));
    }
  }
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

BOOST_AUTO_TEST_CASE(lists_of_hard_negatives) {
  for (const std::string name : {"negatives", "Negs", "hard_negatives"}) {
    put(*this / "p.jsonl", "{\"id\": 1, \"query\": \"a\", \"pos\": \"b\", \"" + name +
                               "\": [\"c\", \"d\"]}\n{\"query\": \"e\", \"pos\": \"f\", \"" + name +
                               "\": [\"g\", \"h\"]}\n");
    const PairsFile file(*this / "p.jsonl");
    BOOST_CHECK_EQUAL(file.hard_negatives(), 2);
    check_texts(read_rows(file, {1}).negatives, {"g", "h"});
    check_texts(file.source().columns, {"query", "pos", name});
    check_texts(file.source().unused, {"id"});
    // A table has no lists, and what stands there may be one that was written as a text.
    put(*this / "p.csv", "query,pos," + name + "\na,b,\"['c', 'd']\"\n");
    BOOST_CHECK_EXCEPTION(
        read_pairs(*this / "p.csv"), FileError,
        says({"p.csv", "'" + name + "' seems to have lists", "JSON Lines", "--columns query,pos," + name}));
    BOOST_CHECK_EQUAL(read_pairs(*this / "p.csv", {.columns = {"query", "pos", name}}).hard_negatives, 1);
  }
  put(*this / "p.jsonl",
      "{\"query\": \"a\", \"pos\": \"b\"}\n{\"query\": \"e\", \"pos\": \"f\", \"negatives\": [\"g\"], \"note\": "
      "\"n\"}\n");
  BOOST_CHECK_EXCEPTION(read_pairs(*this / "p.jsonl"), FileError,
                        says({"p.jsonl: line 2, column 28", "'negatives', which the first has not"}));
  check_texts(read_pairs(*this / "p.jsonl", {.columns = {"query", "pos"}}).anchors, {"a", "e"});
}

BOOST_AUTO_TEST_CASE(labels_are_not_passed_over) {
  for (const char* label : {"label", "labels", "Score", "scores", "gold_label", "similarity", "similarity_score",
                            "relatedness_score", "relevance", "is_duplicate"}) {
    put(*this / "p.csv", std::string("sentence1,") + label + ",sentence2\na,1,b\nc,0,d\n");
    put(*this / "p.jsonl", std::string("{\"sentence1\": \"a\", \"sentence2\": \"b\", \"") + label + "\": 0.5}\n");
    for (const char* name : {"p.csv", "p.jsonl"}) {
      BOOST_CHECK_EXCEPTION(
          read_pairs(*this / name), FileError,
          says({name, std::string("column '") + label + "'", "every row", "--columns sentence1,sentence2"}));
      const PairsFile chosen(*this / name, {.columns = {"sentence1", "sentence2"}});
      check_texts(chosen.source().unused, {label});
    }
    put(*this / "p.jsonl",
        std::string("{\"query\": \"a\", \"pos\": \"b\"}\n{\"query\": \"a\", \"pos\": \"b\", \"") + label + "\": 0}\n");
    BOOST_CHECK_EXCEPTION(read_pairs(*this / "p.jsonl"), FileError, says({"line 2, column 28", label}));
  }
  put(*this / "c.png", "");
  put(*this / "q.csv", "image,text,label\nc.png,a,3\n");
  BOOST_CHECK_EXCEPTION(read_pairs(*this / "q.csv"), FileError,
                        says({"column 'label'", "--image-column image --caption-column text"}));
  BOOST_CHECK_EXCEPTION(read_pairs(*this / "q.csv", {.image = "image"}), FileError, says({"column 'label'"}));
  BOOST_CHECK(read_pairs(*this / "q.csv", {.image = "image", .caption = "text"}).images);
}

BOOST_AUTO_TEST_CASE(columns_of_paths_that_are_taken_for_texts) {
  put(*this / "c.png", "");
  put(*this / "p.csv", "filepath,title,place\nc.png,a,c.png\nd,b,e.png\n");
  BOOST_CHECK_EQUAL(PairsFile(*this / "p.csv", {.columns = {"filepath", "title"}}).paths(), "filepath");
  BOOST_CHECK_EQUAL(read_pairs(*this / "p.csv", {.columns = {"title", "place"}}).paths, "place");
  put(*this / "p.csv", "title,place\na,e.png\n");
  BOOST_CHECK_EQUAL(read_pairs(*this / "p.csv", {.columns = {"title", "place"}}).paths, "");  // there is no such file
  put(*this / "p.csv", "filepath,title\nc.png,a\n");
  BOOST_CHECK_EQUAL(read_pairs(*this / "p.csv").paths, "");
}

BOOST_AUTO_TEST_CASE(where_texts_stand) {
  put(*this / "p.csv", "id,query,pos\n1,a,b\n2,\"c\nd\",a\n3,e,f\n");
  const PairsFile file(*this / "p.csv");
  const auto error = [&](const char* text) { return std::string(file.source().error(text, "what").what()); };
  const std::string name = (*this / "p.csv").string();
  BOOST_CHECK_EQUAL(error("a"), name + ": line 2, column 3: what");
  BOOST_CHECK_EQUAL(error("c\nd"), name + ": line 3, column 3: what");
  BOOST_CHECK_EQUAL(error("f"), name + ": line 5, column 5: what");
  BOOST_CHECK_EQUAL(error("2"), name + ": what");  // in a column that is not read
  BOOST_CHECK_EQUAL(std::string(read_pairs(*this / "p.csv").source.error("e", "what").what()),
                    name + ": line 5, column 3: what");
  BOOST_CHECK_EQUAL(std::string(text_error(*this / "p.csv", {.column = "id"}, "3", "what").what()),
                    name + ": line 5, column 1: what");
  put(*this / "t.txt", "one\r\ntwo\n");
  BOOST_CHECK_EQUAL(std::string(text_error(*this / "t.txt", {}, "two", "what").what()),
                    (*this / "t.txt").string() + ": line 2, column 1: what");
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
  const Pairs chosen = read_rows(PairsFile(*this / "p.csv"), {2, 0});
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
      {"p.jsonl",
       "{\"anchor\": \"a\", \"positive\": \"b\"}\n{\"anchor\": [], \"positive\": \"b\"}\n",
       {"line 2, column 1", "'anchor' is a list of 0"}},
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
  BOOST_CHECK_EQUAL(PairsFile(*this / "p.csv", {.skip_empty = true}).skipped(), 2);
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
  put(*this / "t.jsonl", "{\"text\": \"a\"}\n{\"text\": [\"b\", \"c\"]}\n{\"text\": []}\n");
  BOOST_CHECK_EXCEPTION(read_texts(*this / "t.jsonl"), FileError, says({"line 2, column 2", "list of 2"}));
  put(*this / "t.txt", "");
  BOOST_CHECK_EXCEPTION(read_texts(*this / "t.txt"), FileError, says({"holds no text"}));
}

BOOST_AUTO_TEST_SUITE_END()
