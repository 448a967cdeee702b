#pragma once

#include "tapecache/autograd/variable.h"
#include "tapecache/gradcache/equal_targets.h"

/// Losses over one set of representations, each anchor against all others. Cosine similarity: rows are normalised here.
namespace tapecache::gradcache {

/// NT-Xent of SimCLR (Chen et al. 2020): two views a and b [N, width] of the same samples are 2N anchors; the other
/// view is the positive and the 2N - 2 remaining rows are the negatives: mean of -log softmax(cos / temperature), the
/// similarity with itself left out. `scale` is the inverse temperature, a scalar. Samples that `equal` takes for the same, the
/// views a being queries and b targets, are no negatives of each other in either view; sup_con takes them for positives.
/// Throws ShapeError where the numbers of rows differ or ids do not fit, ValueError for a temperature that is not positive or
/// ids beside equal_rows.
Variable nt_xent(const Variable& a, const Variable& b, double temperature = 0.5, const EqualTargets& equal = {});
Variable nt_xent(const Variable& a, const Variable& b, const Variable& scale, const EqualTargets& equal = {});

/// SupCon (Khosla et al. 2020, L_out): representations [N, width] and labels [N] (i32 or i64; any number is a class).
/// Mean over the anchors that share their class of -1/|P(i)| Σ_{p∈P(i)} log softmax(cos / temperature), the similarity
/// with itself left out. Throws ShapeError, ValueError where no two labels are equal: for labels on a device, where the
/// representations are too, as value_checks.h says, so that the host does not wait; the loss is then 0.
Variable sup_con(const Variable& representations, const Tensor& labels, double temperature = 0.1);
Variable sup_con(const Variable& representations, const Tensor& labels, const Variable& scale);

}  // namespace tapecache::gradcache
