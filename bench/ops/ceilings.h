#pragma once

#include <cstdint>
#include <vector>

namespace ops_bench {

/// A fixed number of f32 multiplications and additions, joined, by all threads. Returns how many.
double multiply_and_add_once();
/// Copies `size` bytes by all threads. Returns how many were read and written.
double copy_once(const std::vector<char>& from, std::vector<char>& to, std::int64_t size);

/// What this machine can do with the threads in use: by loops of their own and not by the library's kernels, so that a
/// kernel that becomes slow does not take its ceiling with it.
class Ceilings {
 public:
  /// Measures them again and keeps the better ones.
  void measure();

  /// f32 multiplications and additions, joined.
  double flops_per_second() const { return flops_per_second_; }
  /// Of a copy that touches about so many bytes in all, read and written ones together.
  double bytes_per_second(double bytes) const;

 private:
  struct Copy {
    double bytes, bytes_per_second;
  };
  double flops_per_second_ = 0;
  std::vector<Copy> copies_;  // by size, each twice the one before
};

}  // namespace ops_bench
