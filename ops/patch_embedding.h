#pragma once

#include "tapecache/autograd/variable.h"

namespace tapecache::ops {

/// Convolution whose stride is its kernel size (Dosovitskiy et al. 2021): images [batch, channels, height, width],
/// weight [out, channels, patch, patch], bias [out] or undefined, to tokens [batch, height/patch · width/patch, out]
/// in row-major order of patches. Throws ShapeError where the patch does not divide height and width.
Variable patch_embedding(const Variable& images, const Variable& weight, const Variable& bias = {});

}  // namespace tapecache::ops
