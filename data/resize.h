#pragma once

#include "tapecache/data/image.h"

#pragma GCC visibility push(hidden)

namespace tapecache::data::images {

/// A rectangle of pixels.
struct Region {
  int x = 0, y = 0, width = 0, height = 0;
};

/// What `resize` to width x height gives within a region of its result, without computing the rest.
Image resize_region(const Image& image, int width, int height, Image::Resampling filter, const Region& region);

}  // namespace tapecache::data::images

#pragma GCC visibility pop
