#pragma once

#include <string>

#include "results.h"

namespace clip_emoji {

/// report.html as one self-contained, well-formed page. `retrieval_png` are the bytes of retrieval.png.
std::string report_html(const Results& results, const std::string& retrieval_png);

/// Text as it stands in HTML and XML, with <, >, &, " and ' escaped and control characters left out.
std::string escaped(const std::string& text);

}  // namespace clip_emoji
