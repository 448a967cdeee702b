#pragma once

#include <concepts>
#include <cstdint>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "tapecache/autograd/variable.h"
#include "tapecache/core/tensor.h"

namespace tapecache::gradcache {

namespace detail {

template <class T>
struct IsTuple : std::false_type {};
template <class... Parts>
struct IsTuple<std::tuple<Parts...>> : std::true_type {};
template <class A, class B>
struct IsTuple<std::pair<A, B>> : std::true_type {};

template <class T>
concept Sliceable = requires(const T& batch, std::int64_t begin, std::int64_t end) {
  { batch.size() } -> std::convertible_to<std::int64_t>;
  { batch.slice(begin, end) } -> std::convertible_to<T>;
};

/// Samples of different cost: their lengths, and any choice of them, padded only as far as that choice needs.
template <class T>
concept HasLengths = requires(const T& batch, std::span<const std::int64_t> samples) {
  { batch.lengths() } -> std::convertible_to<std::vector<std::int64_t>>;
  { batch.select(samples) } -> std::convertible_to<T>;
};

/// Batches that tell what tensors they are made of: `map_tensors(change)` is the batch with `change(t)` in each one's
/// place.
template <class T>
concept MapsTensors = requires(const T& batch, Tensor (*change)(const Tensor&)) {
  { batch.map_tensors(change) } -> std::convertible_to<T>;
};

template <class T>
concept MovesToDevice = requires(const T& batch, Device device) {
  { batch.to(device) } -> std::convertible_to<T>;
};

template <class T>
concept HasVersion = requires(const T& batch) {
  { batch.version() } -> std::convertible_to<std::uint64_t>;
};

}  // namespace detail

/// A batch of samples that can be cut: a Tensor (along axis 0), any type with `size()` and `slice(begin, end)`, or a
/// std::tuple of such, for encoders that are called with several inputs. Optional members: `lengths()` with
/// `select(samples)` for chunks of equal cost, `version()` so that a change between the two forwards is noticed,
/// `map_tensors(change)` (or `to(device)`, which waits for the copy) for chunks that are uploaded one by one.
template <class T>
concept Splittable = std::same_as<T, Tensor> || detail::IsTuple<T>::value || detail::Sliceable<T>;

namespace detail {

[[noreturn]] void throw_uneven_inputs(std::int64_t first, std::int64_t other, std::size_t position);

/// The given rows of axis 0, in their order.
Tensor select_rows(const Tensor& tensor, std::span<const std::int64_t> rows);

template <class T>
std::int64_t sample_count(const T& batch) {
  if constexpr (std::same_as<T, Tensor>) {
    return batch.size(0);
  } else if constexpr (IsTuple<T>::value) {
    return std::apply(
        [](const auto&... parts) {
          const std::vector<std::int64_t> counts{sample_count(parts)...};
          for (std::size_t i = 1; i < counts.size(); ++i) {
            if (counts[i] != counts[0]) throw_uneven_inputs(counts[0], counts[i], i);
          }
          return counts.at(0);
        },
        batch);
  } else {
    return static_cast<std::int64_t>(batch.size());
  }
}

template <class T>
T slice_samples(const T& batch, std::int64_t begin, std::int64_t end) {
  if constexpr (IsTuple<T>::value) {
    return std::apply([&](const auto&... parts) { return T(slice_samples(parts, begin, end)...); }, batch);
  } else {
    return T(batch.slice(begin, end));
  }
}

template <class T>
constexpr bool has_lengths() {
  if constexpr (IsTuple<T>::value) {
    return []<std::size_t... Part>(std::index_sequence<Part...>) {
      return (has_lengths<std::tuple_element_t<Part, T>>() || ...) &&
             ((has_lengths<std::tuple_element_t<Part, T>>() ||
               std::same_as<std::tuple_element_t<Part, T>, Tensor>)&&...);
    }
    (std::make_index_sequence<std::tuple_size_v<T>>());
  } else {
    return HasLengths<T>;
  }
}

/// Cost of each sample; of several inputs, the sum. Empty where the type does not tell.
template <class T>
std::vector<std::int64_t> lengths_of(const T& batch) {
  if constexpr (IsTuple<T>::value && has_lengths<T>()) {
    std::vector<std::int64_t> total(static_cast<std::size_t>(sample_count(batch)), 0);
    std::apply(
        [&](const auto&... parts) {
          const auto add = [&](const std::vector<std::int64_t>& lengths) {
            for (std::size_t i = 0; i < lengths.size(); ++i) total[i] += lengths[i];
          };
          (add(lengths_of(parts)), ...);
        },
        batch);
    return total;
  } else if constexpr (HasLengths<T>) {
    return batch.lengths();
  } else {
    return {};
  }
}

template <class T>
T select_samples(const T& batch, std::span<const std::int64_t> samples) {
  if constexpr (std::same_as<T, Tensor>) {
    return select_rows(batch, samples);
  } else if constexpr (IsTuple<T>::value) {
    return std::apply([&](const auto&... parts) { return T(select_samples(parts, samples)...); }, batch);
  } else {
    return T(batch.select(samples));
  }
}

/// Of several inputs those that can be are uploaded.
template <class T>
constexpr bool can_upload() {
  if constexpr (IsTuple<T>::value) {
    return []<std::size_t... Part>(std::index_sequence<Part...>) {
      return (can_upload<std::tuple_element_t<Part, T>>() || ...);
    }
    (std::make_index_sequence<std::tuple_size_v<T>>());
  } else {
    return std::same_as<T, Tensor> || MapsTensors<T> || MovesToDevice<T>;
  }
}

/// Whether the tensors that would be uploaded are known.
template <class T>
constexpr bool shows_tensors() {
  if constexpr (IsTuple<T>::value) {
    return []<std::size_t... Part>(std::index_sequence<Part...>) {
      return ((shows_tensors<std::tuple_element_t<Part, T>>() || !can_upload<std::tuple_element_t<Part, T>>()) && ...);
    }
    (std::make_index_sequence<std::tuple_size_v<T>>());
  } else {
    return std::same_as<T, Tensor> || MapsTensors<T>;
  }
}

/// A copy on the device, made beside its work where the type tells of its tensors.
template <class T>
T upload_samples(const T& batch, Device device) {
  const auto upload = [device](const Tensor& tensor) { return tensor.defined() ? tensor.to_async(device) : tensor; };
  if constexpr (std::same_as<T, Tensor>) {
    return upload(batch);
  } else if constexpr (IsTuple<T>::value) {
    return std::apply([&](const auto&... parts) { return T(upload_samples(parts, device)...); }, batch);
  } else if constexpr (MapsTensors<T>) {
    return T(batch.map_tensors(upload));
  } else if constexpr (MovesToDevice<T>) {
    return T(batch.to(device));
  } else {
    return batch;
  }
}

/// A number that changes with the contents, as far as the type tells of changes.
template <class T>
std::uint64_t version_of(const T& batch) {
  if constexpr (std::same_as<T, Tensor>) {
    return batch.defined() ? batch.version() : 0;
  } else if constexpr (IsTuple<T>::value) {
    return std::apply([](const auto&... parts) { return (version_of(parts) + ... + 0); }, batch);
  } else if constexpr (HasVersion<T>) {
    return batch.version();
  } else {
    return 0;
  }
}

}  // namespace detail

/// A loss that every sample has by itself, such as masked-token prediction or the balance of a mixture of experts:
/// values [samples]. It adds weight · mean over the whole batch to the step's loss, however the batch was cut.
struct AuxiliaryLoss {
  std::string name;
  Variable values;
  double weight = 1;
};

/// What an encoder gives for some samples. Encoders may also return a Variable, a std::vector of them or a std::tuple
/// of them.
struct Encoded {
  /// One tensor of representations, [samples, …]. The name serves messages and the loss; it may be empty.
  struct Output {
    std::string name;
    Variable value;
  };

  std::vector<Output> outputs;
  std::vector<AuxiliaryLoss> auxiliary = {};
};

namespace detail {

inline Encoded as_encoded(Encoded encoded) { return encoded; }
inline Encoded as_encoded(Variable output) { return {{{"", std::move(output)}}}; }
inline Encoded as_encoded(const std::vector<Variable>& outputs) {
  Encoded encoded;
  for (const Variable& output : outputs) encoded.outputs.push_back({"", output});
  return encoded;
}
template <class T>
Encoded as_encoded(const T& outputs) requires IsTuple<T>::value {
  return std::apply([](const auto&... values) { return Encoded{{{"", Variable(values)}...}}; }, outputs);
}

}  // namespace detail

}  // namespace tapecache::gradcache
