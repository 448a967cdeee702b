#include <algorithm>

#include "tapecache/ops/cuda/block_reduce.cuh"
#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/launch.cuh"
#include "tapecache/ops/cuda/put.cuh"
#include "tapecache/ops/cuda/scratch.h"
#include "tapecache/ops/cuda/sum_terms.cuh"

namespace tapecache::kernels::cuda {

namespace {

Grid grid_by_width(std::int64_t rows, std::int64_t width) {
  return grid_of_rows(rows, static_cast<unsigned>(std::min<std::int64_t>(kThreads, divide_up(width, kWarp) * kWarp)));
}

template <class T>
__global__ void gather_rows_kernel(std::int64_t count, std::int64_t width, const T* table, const std::int64_t* index,
                                   T* y) {
  for (std::int64_t i = blockIdx.x; i < count; i += gridDim.x) {
    const T* row = table + index[i] * width;
    for (std::int64_t j = threadIdx.x; j < width; j += blockDim.x) y[i * width + j] = row[j];
  }
}

// Backward puts the places of `index` in the order of the table's rows, equal ones in their own order, by a stable
// radix sort. The places of one row are then a run, whose rows of dy are summed.

constexpr int kDigitBits = 8;
constexpr unsigned kDigits = 1 << kDigitBits;

/// What one pass of the sort goes by. `order` is the result of the pass before, null for the first.
struct Digits {
  const std::int64_t *index, *order;
  int shift;

  __device__ std::int64_t place(std::int64_t s) const { return order ? order[s] : s; }
  __device__ unsigned digit(std::int64_t place) const { return static_cast<unsigned>(index[place] >> shift) % kDigits; }
};

/// The lanes whose digit is this lane's.
__device__ inline unsigned lanes_alike(bool here, unsigned digit) {
  unsigned alike = __ballot_sync(kAllLanes, here);
  for (int bit = 0; bit < kDigitBits; ++bit) {
    const bool set = digit >> bit & 1;
    const unsigned lanes = __ballot_sync(kAllLanes, set);
    alike &= set ? lanes : ~lanes;
  }
  return alike;
}

/// Adds each digit's number in a tile, which one warp walks, to `seen`, kDigits a tile; with `sorted`, puts each place
/// there where its digit's number stands.
__global__ void count_digits_kernel(Digits digits, std::int64_t count, std::int64_t tile, std::int64_t* seen,
                                    std::int64_t* sorted) {
  __shared__ std::int64_t next[kDigits];
  const unsigned lane = threadIdx.x;
  std::int64_t* of_tile = seen + blockIdx.x * std::int64_t{kDigits};
  for (unsigned d = lane; d < kDigits; d += kWarp) next[d] = of_tile[d];
  __syncwarp();
  const std::int64_t begin = blockIdx.x * tile, end = begin + tile < count ? begin + tile : count;
  for (std::int64_t first = begin; first < end; first += kWarp) {
    const bool here = first + lane < end;
    const std::int64_t place = here ? digits.place(first + lane) : 0;
    const unsigned digit = here ? digits.digit(place) : 0, alike = lanes_alike(here, digit);
    const int before = __popc(alike & ((1u << lane) - 1));
    if (here && sorted) sorted[next[digit] + before] = place;
    __syncwarp();
    if (here && before == 0) next[digit] += __popc(alike);
    __syncwarp();
  }
  if (sorted) return;
  for (unsigned d = lane; d < kDigits; d += kWarp) of_tile[d] = next[d];
}

/// Turns the numbers of digits into the places where the first of them goes, in the order of digits and then of tiles.
__global__ void number_digits_kernel(std::int64_t tiles, std::int64_t* seen) {
  __shared__ std::int64_t totals[kDigits];
  const unsigned digit = threadIdx.x;
  std::int64_t total = 0;
  for (std::int64_t t = 0; t < tiles; ++t) total += seen[t * kDigits + digit];
  totals[digit] = total;
  __syncthreads();
  std::int64_t next = 0;
  for (unsigned d = 0; d < digit; ++d) next += totals[d];
  for (std::int64_t t = 0; t < tiles; ++t) {
    const std::int64_t number = seen[t * kDigits + digit];
    seen[t * kDigits + digit] = next;
    next += number;
  }
}

void clear(void* memory, std::int64_t bytes) {
  check(cudaMemsetAsync(memory, 0, static_cast<std::size_t>(bytes), current_stream()), "clearing memory");
}

/// Writes the places 0 … count - 1 by ascending index to one of two arrays, and returns which.
const std::int64_t* sort_places(std::int64_t count, std::int64_t rows, const std::int64_t* index, std::int64_t* one,
                                std::int64_t* other) {
  constexpr std::int64_t kLeastTile = 512, kMaxTiles = 128;
  const std::int64_t tile = std::max(kLeastTile, divide_up(divide_up(count, kMaxTiles), kWarp) * kWarp);
  const std::int64_t tiles = divide_up(count, tile);
  const Grid grid{static_cast<unsigned>(tiles), kWarp};
  const Scratch<std::int64_t> seen(tiles * kDigits);
  const std::int64_t* order = nullptr;
  for (int shift = 0; shift == 0 || (rows - 1) >> shift > 0; shift += kDigitBits) {
    const Digits digits{index, order, shift};
    clear(seen.data(), tiles * kDigits * std::int64_t{sizeof(std::int64_t)});
    launch(count_digits_kernel, grid, digits, count, tile, seen.data(), nullptr);
    launch(number_digits_kernel, Grid{1, kDigits}, tiles, seen.data());
    launch(count_digits_kernel, grid, digits, count, tile, seen.data(), one);
    order = one;
    std::swap(one, other);
  }
  return order;
}

constexpr std::int64_t kPiece = 64;

/// The places of one table row: those from `begin` to `end` of the order. Long runs are summed in pieces, the last of
/// which is up to twice as long; that makes at most one piece begin in each kPiece places.
struct RowRun {
  std::int64_t begin, end;
  __device__ std::int64_t pieces() const { return (end - begin) / kPiece; }
  __device__ bool is_long() const { return pieces() > 1; }
};

__global__ void find_runs_kernel(std::int64_t count, const std::int64_t* index, const std::int64_t* order,
                                 RowRun* runs) {
  for (std::int64_t s = thread_index(); s < count; s += thread_count()) {
    const std::int64_t row = index[order[s]];
    if (s == 0 || index[order[s - 1]] != row) runs[row].begin = s;
    if (s == count - 1 || index[order[s + 1]] != row) runs[row].end = s + 1;
  }
}

template <class T>
__device__ typename LongSum<T>::Type sum_places(std::int64_t begin, std::int64_t end, const std::int64_t* order,
                                                std::int64_t width, std::int64_t column, const T* dy) {
  return sum_in_steps<T>(begin, end, 1, [=](std::int64_t s) { return dy[order[s] * width + column]; });
}

/// Row b of `parts` is the sum of that piece of a long run which begins in places kPiece · b … of the order.
template <class T>
__global__ void sum_pieces_kernel(std::int64_t blocks, std::int64_t count, std::int64_t width,
                                  const std::int64_t* index, const std::int64_t* order, const RowRun* runs, const T* dy,
                                  typename LongSum<T>::Type* parts) {
  for (std::int64_t b = blockIdx.x; b < blocks; b += gridDim.x) {
    const std::int64_t first = b * kPiece, last = first + kPiece - 1 < count - 1 ? first + kPiece - 1 : count - 1;
    const RowRun runs_of_ends[2] = {runs[index[order[first]]], runs[index[order[last]]]};
    for (const RowRun& run : runs_of_ends) {
      const std::int64_t piece = run.begin < first ? (first - run.begin + kPiece - 1) / kPiece : 0;
      const std::int64_t begin = run.begin + piece * kPiece;
      if (!run.is_long() || piece >= run.pieces() || begin > last) continue;
      const std::int64_t end = piece == run.pieces() - 1 ? run.end : begin + kPiece;
      for (std::int64_t j = threadIdx.x; j < width; j += blockDim.x) {
        parts[b * width + j] = sum_places(begin, end, order, width, j, dy);
      }
      break;
    }
  }
}

template <class T>
__global__ void sum_runs_kernel(std::int64_t table_rows, std::int64_t width, const std::int64_t* order,
                                const RowRun* runs, const T* dy, const typename LongSum<T>::Type* parts, T* dtable,
                                Mode mode) {
  for (std::int64_t row = blockIdx.x; row < table_rows; row += gridDim.x) {
    const RowRun run = runs[row];
    if (mode == Mode::kAccumulate && run.begin == run.end) continue;
    for (std::int64_t j = threadIdx.x; j < width; j += blockDim.x) {
      typename LongSum<T>::Type sum{0};
      if (run.is_long()) {
        for (std::int64_t p = 0; p < run.pieces(); ++p) sum += parts[(run.begin / kPiece + p) * width + j];
      } else {
        sum = sum_places(run.begin, run.end, order, width, j, dy);
      }
      put(dtable[row * width + j], static_cast<T>(sum), mode);
    }
  }
}

template <class T>
void gather_rows(std::int64_t count, std::int64_t width, const T* table, const std::int64_t* index, T* y) {
  launch(gather_rows_kernel<T>, grid_by_width(count, width), count, width, table, index, y);
}

// dtable[r] = Σ_{i: index[i] = r} dy[i]
template <class T>
void gather_rows_backward(std::int64_t count, std::int64_t width, std::int64_t table_rows, const std::int64_t* index,
                          const T* dy, T* dtable, Mode mode) {
  if (width == 0 || table_rows == 0) return;
  const std::int64_t blocks = divide_up(count, kPiece);
  const Scratch<std::int64_t> one(count), other(count);
  const Scratch<RowRun> runs(table_rows);
  const Scratch<typename LongSum<T>::Type> parts(blocks * width);
  clear(runs.data(), table_rows * std::int64_t{sizeof(RowRun)});
  const std::int64_t* order = nullptr;
  if (count > 0) {
    order = sort_places(count, table_rows, index, one.data(), other.data());
    launch(find_runs_kernel, grid_for(count), count, index, order, runs.data());
    launch(sum_pieces_kernel<T>, grid_by_width(blocks, width), blocks, count, width, index, order, runs.data(), dy,
           parts.data());
  }
  launch(sum_runs_kernel<T>, grid_by_width(table_rows, width), table_rows, width, order, runs.data(), dy, parts.data(),
         dtable, mode);
}

template <class T>
constexpr GatherKernels<T> kGather{
    .gather_rows = gather_rows<T>,
    .gather_rows_backward = gather_rows_backward<T>,
};

}  // namespace

template <>
const GatherKernels<float> Provided<GatherKernels<float>>::kernels = kGather<float>;
template <>
const GatherKernels<double> Provided<GatherKernels<double>>::kernels = kGather<double>;

}  // namespace tapecache::kernels::cuda
