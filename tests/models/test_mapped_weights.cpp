#include <cstdint>
#include <string>

#include "folder.h"
#include "model_checks.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/error.h"
#include "tapecache/models/pretrained.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

BOOST_AUTO_TEST_SUITE(mapped_weights)

BOOST_AUTO_TEST_CASE(values_are_views_of_the_file) {
  const Folder folder;
  const auto made = [](double value) {
    Builder builder(1);
    builder.parameter("large", {300, 300}, Init::constant(value));
    builder.parameter("small", {3}, Init::constant(value));
    return builder;
  };
  const Builder from = made(3), to = made(1), refused = made(5);
  for (Parameter p : from.parameters()) p.assign(random_values(p.value().shape(), 4, DType::kFloat32));
  save_weights(folder / "w", from);
  const std::string bytes = contents(folder / "w");
  Parameter large = to.parameters()[0];
  const Tensor handle = large.value(), part = handle.slice(1, 2);
  const std::uint64_t version = handle.version();
  const std::size_t before = allocator().stats().current;
  load_weights(folder / "w", to, {.memory_map = true});
  BOOST_TEST(large.value().is_wrapped());
  BOOST_TEST(!to.parameters()[1].value().is_wrapped());
  BOOST_TEST(before - allocator().stats().current == Allocator::block_size(300 * 300 * 4));  // of what it held before
  BOOST_TEST(same_values(to.parameters(), values_by_name(from.parameters())));
  // Whoever held the tensor has what was loaded, and is told that it changed.
  BOOST_TEST(same_bits(handle, from.parameters()[0].value()));
  BOOST_TEST(same_bits(part, from.parameters()[0].value().slice(1, 2)));
  BOOST_TEST(handle.version() > version);
  // Another model of the same file, of which each changes its own.
  const Builder again = made(1);
  load_weights(folder / "w", again, {.memory_map = true});
  large.mutable_value().fill(9);
  BOOST_TEST(same_values(again.parameters(), values_by_name(from.parameters())));
  BOOST_TEST((contents(folder / "w") == bytes));
  // In the place of the file that it views.
  save_weights(folder / "w", again);
  BOOST_TEST((contents(folder / "w") == bytes));
  // What is of another type is converted, and what is refused changes nothing.
  Builder wide(1, DType::kFloat64);
  wide.parameter("large", {300, 300}, Init::constant(1));
  load_weights(folder / "w", wide, {.strict = false, .memory_map = true});
  BOOST_TEST(!wide.parameters()[0].value().is_wrapped());
  Parameter(refused.parameters()[1]).set_name("other");
  const std::size_t held = allocator().stats().current;
  BOOST_CHECK_THROW(load_weights(folder / "w", refused, {.memory_map = true}), FileError);
  BOOST_TEST(allocator().stats().current == held);
  BOOST_TEST(refused.parameters()[0].value().reshape({90000}).slice(0, 1).item() == 5.0);
}

BOOST_AUTO_TEST_SUITE_END()
