#pragma once

#include <string>

#include "results.h"

namespace clip_emoji {

/// Colour of a way in every figure (Okabe and Ito's palette, told apart by colour-blind readers too).
const char* color_of(const std::string& way);

/// Throws tapecache::Error naming the package where gnuplot cannot be started; called before anything is trained.
void require_gnuplot();

// Each gives an <svg> element to be put into a page; its ids begin with its own prefix.
std::string loss_plot(const Results& results);
std::string gradient_plot(const Results& results);
std::string memory_plot(const Results& results);
/// The logits as heat maps, one for each way, with what the way does not see greyed out.
std::string logits_figure(const Results& results);

}  // namespace clip_emoji
