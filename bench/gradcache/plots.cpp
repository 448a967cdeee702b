#include <string>

#include <fmt/format.h>

#include "../../demos/clip_emoji/gnuplot.h"
#include "measurements.h"
#include "tapecache/core/error.h"
#include "tapecache/core/files.h"

namespace gradcache_bench {

namespace {

constexpr const char* kHead =
    "set terminal svg size 640,360 font 'sans-serif,13' background 'white'\n"
    "set grid lc rgb '#dddddd'\nset border 3\nset tics nomirror\nset key top right\n";

std::string cost_script(const Cost& cost) {
  std::string script = kHead;
  script += "$budget << EOD\n";
  for (const BudgetCost& c : cost.by_budget) script += fmt::format("{} {} {}\n", c.kept, c.ratio, c.share);
  script +=
      "EOD\nset title 'Time of a cached step, direct step = 1'\n"
      "set xlabel 'share of the chunks whose tape is kept'\nset ylabel 'times the direct step'\n"
      "set yrange [0:*]\nset xrange [-0.03:1.03]\nset key bottom right\n"
      "plot 1 lc rgb '#888888' dt 2 title 'direct', "
      "$budget using 1:2 with linespoints lw 2 pt 7 lc rgb '#0072b2' title 'cached, by memory budget'\n";
  return script;
}

std::string peak_script(const std::vector<Peak>& peaks) {
  std::string script = kHead;
  script += "$peak << EOD\n";
  for (const Peak& p : peaks) {
    script += fmt::format("{} {} {}\n", p.batch, static_cast<double>(p.bytes) / 1048576,
                          static_cast<double>(p.beyond_data) / 1048576);
  }
  script +=
      "EOD\nset title 'Peak memory of a cached step, chunks of 32, tiled loss'\n"
      "set xlabel 'batch'\nset ylabel 'MiB'\nset logscale xy\nset yrange [1:*]\nset xrange [50:100000]\n"
      "set key bottom right\n"
      "plot $peak using 1:2 with linespoints lw 2 pt 7 lc rgb '#888888' title 'all', "
      "$peak using 1:3 with linespoints lw 2 pt 7 lc rgb '#0072b2' title 'beyond weights, input and "
      "representations'\n";
  return script;
}

}  // namespace

bool write_plots(const std::string& folder, const Cost& cost, const std::vector<Peak>& peaks) {
  try {
    tapecache::write_file_atomically(folder + "/cost.svg", clip_emoji::run_gnuplot(cost_script(cost)));
    tapecache::write_file_atomically(folder + "/peak.svg", clip_emoji::run_gnuplot(peak_script(peaks)));
    return true;
  } catch (const tapecache::Error& error) {
    fmt::print(stderr, "no plots: {}\n", error.what());
    return false;
  }
}

}  // namespace gradcache_bench
