#include "parameter_groups.h"

#include <algorithm>
#include <cctype>

namespace tapecache::program {

std::string group_of(std::string_view parameter) {
  for (std::size_t begin = 0; begin < parameter.size();) {
    const std::size_t end = std::min(parameter.find('.', begin), parameter.size());
    const std::string_view part = parameter.substr(begin, end - begin);
    const bool number =
        !part.empty() && std::ranges::all_of(part, [](unsigned char c) { return std::isdigit(c) != 0; });
    if (number) return std::string(parameter.substr(0, end));
    begin = end + 1;
  }
  const std::size_t dot = parameter.rfind('.');
  return std::string(dot == std::string_view::npos ? parameter : parameter.substr(0, dot));
}

}  // namespace tapecache::program
