#include "checks.h"
#include "folder.h"

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "tapecache/core/error.h"
#include "tapecache/data/npy.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {

/// A file of format 1 with this header, without padding.
std::string file_of(const std::string& header, const std::string& elements) {
  std::string bytes("\x93NUMPY\x01\x00", 8);
  bytes += static_cast<char>(header.size());
  bytes += '\0';
  return bytes + header + elements;
}

}  // namespace

BOOST_FIXTURE_TEST_SUITE(npy, Folder)

BOOST_AUTO_TEST_CASE(bytes_are_those_that_numpy_writes) {
  data::write_npy(*this / "v.npy", Tensor::from({1.0f, -2.5f, 0.0f, 3.0f, 4.0f, 5.0f}, {3, 2}));
  const std::string bytes = contents(*this / "v.npy");
  const std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }";
  BOOST_CHECK_EQUAL(bytes.size(), 128u + 24u);
  BOOST_CHECK(bytes.substr(0, 10) == std::string("\x93NUMPY\x01\x00\x76\x00", 10));
  BOOST_CHECK_EQUAL(bytes.substr(10, header.size()), header);
  BOOST_CHECK_EQUAL(bytes.substr(10 + header.size(), 118 - header.size()),
                    std::string(117 - header.size(), ' ') + '\n');
  BOOST_CHECK(bytes.substr(128, 8) == std::string("\x00\x00\x80\x3f\x00\x00\x20\xc0", 8));
}

BOOST_AUTO_TEST_CASE(what_was_written_is_read) {
  std::vector<Tensor> all;
  for (const DType dtype :
       {DType::kFloat16, DType::kFloat32, DType::kFloat64, DType::kInt32, DType::kInt64, DType::kUInt8, DType::kBool}) {
    all.push_back(Tensor::from({1.0, 0.0, 3.0, 7.0, 5.0, 2.0}, {2, 3, 1}).to(dtype));
  }
  all.push_back(Tensor::from({1.0f, 2.0f}, {2}));
  all.push_back(Tensor::scalar(4.0f));
  all.push_back(Tensor::empty({0, 384}));
  for (const Tensor& tensor : all) {
    data::write_npy(*this / "v.npy", tensor);
    const Tensor found = data::read_npy(*this / "v.npy");
    BOOST_CHECK_EQUAL(describe(found), describe(tensor));
    BOOST_CHECK(found.to(DType::kFloat64).to_vector<double>() == tensor.to(DType::kFloat64).to_vector<double>());
  }
  BOOST_CHECK_EQUAL(entries(), 1);
  BOOST_CHECK_EXCEPTION(data::write_npy(*this / "b.npy", Tensor::zeros({2}, DType::kBFloat16)), DTypeError,
                        says({"bfloat16"}));
  BOOST_CHECK_EQUAL(entries(), 1);
}

BOOST_AUTO_TEST_CASE(headers_of_other_writers) {
  put(*this / "v.npy", file_of("{ \"shape\":(2,),\"fortran_order\":False, 'descr':'<i4'}\n", std::string(8, '\1')));
  check_equal(data::read_npy(*this / "v.npy"), {0x01010101, 0x01010101});
  std::string second("\x93NUMPY\x02\x00", 8);
  const std::string header = "{'descr': '|u1', 'fortran_order': False, 'shape': ()}";
  second += std::string({static_cast<char>(header.size()), '\0', '\0', '\0'}) + header + '\7';
  put(*this / "v.npy", second);
  check_equal(data::read_npy(*this / "v.npy"), {7});
}

BOOST_AUTO_TEST_CASE(what_is_refused) {
  const std::string right = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string header = right;
    return header.replace(header.find(from), from.size(), to);
  };
  const std::string eight(8, '\0');
  struct Case {
    std::string bytes;
    std::vector<std::string> words;
  };
  const std::vector<Case> cases{
      {"", {"is no .npy file"}},
      {"hello, this is text", {"is no .npy file"}},
      {std::string("\x93NUMPY\x01\x00\xff\x00", 10), {"is truncated", "265", "10"}},
      {std::string("\x93NUMPY\x04\x00\x01\x00 ", 11), {"format 4"}},
      {file_of(right, std::string(7, '\0')), {"has 74 bytes", "says 75"}},
      {file_of(right, std::string(9, '\0')), {"has 76 bytes", "says 75"}},
      {file_of(with("<f4", ">f4"), eight), {"'>f4'", "<f4"}},
      {file_of(with("<f4", "|O"), eight), {"'|O'"}},
      {file_of(with("False", "True"), eight), {"Fortran"}},
      {file_of(with("(2,)", "(9223372036854775807, 9223372036854775807)"), eight), {"is truncated"}},
      {file_of(with("(2,)", "(0, 9223372036854775807, 9223372036854775807)"), ""), {"v.npy"}},
      {file_of(with("(2,)", "(1,1,1,1,1,1,2)"), eight), {"7 axes"}},
      {file_of(with("(2,)", "(-2,)"), eight), {"malformed"}},
      {file_of(with("(2,)", "(99999999999999999999,)"), eight), {"malformed"}},
      {file_of(with("'shape'", "'shap'"), eight), {"malformed"}},
      {file_of(with(", 'shape': (2,)", ""), eight), {"malformed"}},
      {file_of(with("(2,), }", "(2,)"), eight), {"malformed"}},
      {file_of(right + "x", eight), {"malformed"}},
      {file_of(with("<f4", "|b1"), "\1\2"), {"neither 0 nor 1"}},
  };
  for (const Case& c : cases) {
    put(*this / "v.npy", c.bytes);
    BOOST_CHECK_EXCEPTION(data::read_npy(*this / "v.npy"), FileError, says(c.words));
  }
  BOOST_CHECK_EXCEPTION(data::read_npy(*this / "missing.npy"), FileError, says({"missing.npy", "no such file"}));
  BOOST_CHECK_EXCEPTION(data::read_npy(path()), FileError, says({path().string()}));
}

BOOST_AUTO_TEST_SUITE_END()
