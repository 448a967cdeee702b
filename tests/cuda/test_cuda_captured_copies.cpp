#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "captured_training.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/error.h"

// Captured steps that copy beside their computing: replays read page-locked memory of the host, and leave results
// there. Under emulation a wait that is missing within a graph, or around it, shows in one of two orders.

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

constexpr std::int64_t kMany = 30'000;

Tensor values(std::uint64_t seed, std::int64_t n = kMany) { return random_values({n}, seed, DType::kFloat32); }
Tensor sevens() { return Tensor::full({kMany}, 7); }

constexpr Places kPlaces[] = {{true, false}, {false, true}, {true, true}};

}  // namespace

BOOST_AUTO_TEST_SUITE(cuda)
BOOST_AUTO_TEST_SUITE(captured_copies)

BOOST_AUTO_TEST_CASE(replays_equal_steps_wherever_the_data_lies, *on_device) {
  for (const Places places : kPlaces) {
    for (const Kind kind : {Kind::kDirect, Kind::kCached, Kind::kCachedBFloat16}) {
      for (const std::int64_t kept : {0, 1, 9}) {
        if (kept != 1 && !(kind == Kind::kCached && places.upload && places.offload)) continue;
        BOOST_TEST_CONTEXT("upload " << places.upload << ", offload " << places.offload << ", kind "
                                     << static_cast<int>(kind) << ", kept " << kept) {
          Both both(kind, kept == 1, places, kept);
          for (std::uint32_t t = 0; t < 4; ++t) {
            both.step(t);
            BOOST_TEST(both.captured.captured() == (t > 0));
            both.check_alike();
            BOOST_TEST(std::isfinite(both.replayed.result.loss.item()));
            const bool offloaded = places.offload && kind != Kind::kDirect;
            for (const Tensor& r : both.replayed.result.representations) BOOST_TEST(r.is_pinned() == offloaded);
          }
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_batch_may_be_refilled_as_soon_as_a_replay_was_asked_for, *on_device) {
  for (const Places places : {Places{true, false}, {true, true}}) {
    Both both(Kind::kCached, false, places);
    for (std::uint32_t t = 0; t < kSteps; ++t) {
      both.plain.prepare(t);
      begin_random_step(kSeed, t);
      both.plain.step();
    }
    const std::uint64_t waits = Device::waits();
    std::vector<Tensor> kept;
    for (std::uint32_t t = 0; t < kSteps; ++t) {
      both.replayed.prepare(t);
      both.captured.replay(t);
      kept = occupied();
      for (int i = 0; i < 3; ++i) kept.push_back(sevens().pinned());
    }
    BOOST_TEST(Device::waits() == waits);
    both.check_alike();
  }
}

BOOST_AUTO_TEST_CASE(a_replay_reads_what_is_there_and_leaves_results_in_place, *on_device) {
  Tensor in = values(0).pinned(), out = Tensor::empty_pinned({kMany}), there = values(0).to(kCuda), taken;
  CapturedStep step(kCuda, [&] {
    out.copy_from_async(ops::scale(in.to_async(kCuda), 2).value());
    taken = there.to_async(Device::cpu());  // nothing in the step waits for the last copy
  });
  for (std::uint32_t t = 0; t < 5; ++t) {
    in.copy_from(values(t));
    there.copy_from(values(t + 20).to(kCuda));
    step.replay(t);
    BOOST_TEST(taken.is_pinned());
    BOOST_TEST(same_bits(out, ops::scale(values(t), 2).value()));
    BOOST_TEST(same_bits(taken, values(t + 20)));
  }
  // One after the other, each from what the one before left.
  Tensor state = Tensor::full({kMany}, 1).pinned();
  CapturedStep twice(kCuda, [&] { state.copy_from_async(ops::scale(state.to_async(kCuda), 2).value()); });
  for (std::uint32_t t = 0; t < 6; ++t) twice.replay(t);
  BOOST_TEST(same_bits(state, Tensor::full({kMany}, 64)));
  BOOST_TEST(state.version() >= 6u);
}

BOOST_AUTO_TEST_CASE(copies_around_a_replay_keep_their_order, *on_device) {
  Tensor in = values(0).pinned(), y;
  CapturedStep step(kCuda, [&] { y = ops::scale(in.to_async(kCuda), 2).value(); });
  for (std::uint32_t t = 0; t < 5; ++t) {
    const Tensor next = values(t + 1).to(kCuda);
    const Tensor before = in.to_async(kCuda);  // of what is there until now
    in.copy_from_async(next);
    step.replay(t);
    const Tensor again = in.to_async(kCuda);
    in.copy_from(sevens());
    BOOST_TEST(same_bits(before, t == 0 ? values(0) : sevens()));
    BOOST_TEST(same_bits(y, ops::scale(values(t + 1), 2).value()));
    BOOST_TEST(same_bits(again, values(t + 1)));
  }
  for (std::uint32_t t = 0; t < 3; ++t) {
    in.copy_from(values(t));
    const Tensor before = in.to_async(kCuda);
    step.replay(t);
    in.copy_from(sevens());  // waits for both
    BOOST_TEST(same_bits(before, values(t)));
    BOOST_TEST(same_bits(y, ops::scale(values(t), 2).value()));
  }
}

BOOST_AUTO_TEST_CASE(a_replay_comes_after_the_copies_before_it, *on_device) {
  Tensor in = values(0).to(kCuda), y;
  CapturedStep step(kCuda, [&] { y = ops::scale(in, 2).value(); });
  for (std::uint32_t t = 0; t < 6; ++t) {
    const Tensor next = values(t).pinned();
    in.copy_from_async(next);
    step.replay(t);
    const Tensor result = y, left = result.to_async(Device::cpu());
    in.copy_from_async(sevens().pinned());
    step.replay(t);
    BOOST_TEST(same_bits(left, ops::scale(values(t), 2).value()), "replay " << t);
    BOOST_TEST(same_bits(y, Tensor::full({kMany}, 14)), "replay " << t);
  }
}

BOOST_AUTO_TEST_CASE(a_recording_comes_after_the_copies_before_it, *on_device) {
  Tensor there = values(0).to(kCuda), out, target = Tensor::empty({kMany}, DType::kFloat32, kCuda);
  const Tensor in = values(3).pinned(), next = values(1).pinned();
  CapturedStep step(kCuda, [&] {
    out = there.to_async(Device::cpu());
    target.copy_from_async(in);
  });
  step.replay(0);
  there.copy_from_async(next);
  target.copy_from_async(next);
  for (std::uint32_t t = 1; t < 4; ++t) {
    step.replay(t);
    BOOST_TEST(same_bits(out, values(1)));
    BOOST_TEST(same_bits(target, values(3)));
  }
}

BOOST_AUTO_TEST_CASE(memory_freed_behind_a_recorded_copy_is_handed_out_after_it, *on_device) {
  const Tensor in = values(1).pinned(), x = values(2).to(kCuda);
  Tensor out, unused, results[4];
  const std::byte* places[4] = {};
  CapturedStep step(kCuda, [&] {
    Tensor leaving = ops::scale(x, 3).value();  // copied away and freed
    places[0] = leaving.raw();
    out = leaving.to_async(Device::cpu());
    leaving = {};
    results[0] = Tensor::full({kMany}, 5, DType::kFloat32, kCuda);
    places[1] = results[0].raw();
    Tensor arriving = in.to_async(kCuda);  // copied to and freed before anything used it
    arriving = {};
    results[1] = Tensor::full({kMany}, 6, DType::kFloat32, kCuda);
    Tensor read = ops::scale(x, 4).value();  // read by work and freed; then the target of a copy
    results[2] = ops::scale(read, 2).value();
    places[2] = read.raw();
    read = {};
    results[3] = in.to_async(kCuda);
    places[3] = results[3].raw();
  });
  for (std::uint32_t t = 0; t < 4; ++t) {
    step.replay(t);
    if (kCuda.name() == "emulated" && t == 1) {
      BOOST_TEST(places[0] == places[1]);
      BOOST_TEST(places[2] == places[3]);
    }
    BOOST_TEST(same_bits(out, ops::scale(values(2), 3).value()));
    BOOST_TEST(same_bits(results[0], Tensor::full({kMany}, 5)));
    BOOST_TEST(same_bits(results[1], Tensor::full({kMany}, 6)));
    BOOST_TEST(same_bits(results[2], ops::scale(ops::scale(values(2), 4), 2).value()));
    BOOST_TEST(same_bits(results[3], values(1)));
  }
}

BOOST_AUTO_TEST_CASE(page_locked_memory_stays_until_the_step_is_gone, *on_device) {
  Allocator& memory = pinned_allocator();
  const std::size_t before = memory.stats().current;
  Tensor y;
  {
    std::optional<Tensor> in = values(3).pinned();
    CapturedStep step(kCuda, [&] { y = ops::add(in->to_async(kCuda), in->to(kCuda)).value(); });
    step.replay(0);
    step.replay(1);
    in.reset();
    memory.release_cache();
    for (std::uint32_t t = 2; t < 5; ++t) {
      const Tensor other = sevens().pinned();
      step.replay(t);
      BOOST_TEST(same_bits(y, ops::scale(values(3), 2).value()));
    }
    BOOST_TEST(memory.stats().current > before);
  }
  memory.release_cache();
  BOOST_TEST(memory.stats().current == before);
}

BOOST_AUTO_TEST_CASE(a_step_may_end_while_another_is_recorded, *on_device) {
  const Tensor in = values(1).pinned();
  Tensor a, b;
  auto first = std::make_unique<CapturedStep>(kCuda, [&] { a = ops::scale(in.to_async(kCuda), 2).value(); });
  first->replay(0);
  first->replay(1);
  bool recording = false;
  CapturedStep second(kCuda, [&] {
    b = ops::scale(in.to_async(kCuda), 3).value();
    if (std::exchange(recording, true)) std::thread([&] { first.reset(); }).join();
  });
  for (std::uint32_t t = 0; t < 3; ++t) second.replay(t);
  BOOST_TEST(!first);
  BOOST_TEST(same_bits(a, ops::scale(values(1), 2).value()));
  BOOST_TEST(same_bits(b, ops::scale(values(1), 3).value()));
}

BOOST_AUTO_TEST_CASE(what_a_replay_would_not_see_is_refused, *on_device) {
  struct Moving {
    Tensor values;
    std::int64_t size() const { return values.size(0); }
    Moving slice(std::int64_t begin, std::int64_t end) const { return {values.slice(begin, end)}; }
    Moving to(Device device) const { return {values.to(device)}; }
  };
  const Tensor ordinary = values(1), device = values(2).to(kCuda);
  Tensor pinned = values(1).pinned();
  const Encoder encoder = Encoder(1, DType::kFloat32, 0.2);
  const Tensor batch = random_values({6, 5}, 1, DType::kFloat32);
  const auto loss = [](std::span<const Variable> r) { return info_nce(r[0], r[0]); };
  const auto take = [&](const Tower& tower, bool offload, std::int64_t tokens = 0) {
    StepOptions options = device_options({4});
    options.deferred = true;
    options.offload = offload;
    if (tokens > 0) options.cut = ChunkTokens{tokens, {4}};
    cached_step(std::span(&tower, 1), loss, options);
  };
  SmallModel model(6);
  model.clip.to(kCuda);
  const auto encode_text = [&](const models::TokenBatch& x) { return model.clip.encode_text(x); };
  const Tower text("text", model.texts.pinned(), encode_text), text_there("text", model.texts.to(kCuda), encode_text);
  const std::pair<std::function<void()>, std::vector<std::string>> cases[] = {
      {[&] { ordinary.to_async(kCuda); }, {"[30000] on cpu is in ordinary memory", "pinned()"}},
      {[&] { take(Tower("x", batch, encoder).upload_to(kCuda), false); }, {"ordinary memory", "pinned()"}},
      {[&] {
         take(Tower("x", Moving{batch.pinned()}, [&](const Moving& m) { return encoder(m.values); }).upload_to(kCuda),
              false);
       },
       {"tower 'x'", "map_tensors"}},
      {[&] { take(text.upload_to(kCuda), false, 20); }, {"cached_step", "'text'", "ordered by length", "ChunkSizes"}},
      {[&] { take(text_there, true, 20); }, {"cached_step", "'text'", "ordered by length", "ChunkSizes"}},
      {[&] { device.to_async(Device::cpu()).data<float>(); }, {"only captured", "captured step may not"}},
      {[&] { device.to_async(Device::cpu()).clone(); }, {"only captured"}},
      {[&] {
         const Tensor there = pinned.to_async(kCuda);
         pinned.fill(3);
       },
       {"only captured"}},
      {[&] { pinned.copy_from(device.to_async(Device::cpu())); }, {"only captured"}},
      {[&] { device.to(Device::cpu()); }, {"waits for the device"}},
  };
  for (const auto& [call, words] : cases) {
    BOOST_TEST_CONTEXT(words.back()) {
      bool recording = false;
      CapturedStep step(kCuda, [&, &f = call] {
        const Tensor there = pinned.to_async(kCuda);
        if (std::exchange(recording, true)) f();
      });
      step.replay(0);
      for (Parameter p : encoder.parameters()) p.clear_gradient();
      const std::size_t in_use = allocator(kCuda).stats().current, here = pinned_allocator().stats().current;
      for (int i = 0; i < 2; ++i) BOOST_CHECK_EXCEPTION(step.replay(1), Error, says({words}));
      BOOST_TEST(!step.captured());
      BOOST_TEST(!CapturedStep::is_capturing());
      BOOST_TEST(allocator(kCuda).stats().current == in_use);
      BOOST_TEST(pinned_allocator().stats().current == here);
      BOOST_TEST(same_bits(pinned, values(1)));
      BOOST_TEST(same_bits(pinned.to_async(kCuda), values(1)));
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
BOOST_AUTO_TEST_SUITE_END()
