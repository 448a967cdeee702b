#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cudnn.h"

namespace emulation {

/// What is behind a descriptor; kept as long as a descriptor that it was given to.
struct Node {
  cudnnBackendDescriptorType_t type;
  bool finalized = false;
  std::map<int, std::vector<std::byte>> values;
  std::map<int, std::vector<std::shared_ptr<Node>>> nodes;

  template <class T>
  std::span<const T> all(int attribute) const {
    const auto found = values.find(attribute);
    if (found == values.end()) return {};
    return {reinterpret_cast<const T*>(found->second.data()), found->second.size() / sizeof(T)};
  }
  template <class T>
  T value(int attribute) const {
    return all<T>(attribute).front();
  }
  bool has(int attribute) const { return values.contains(attribute) || nodes.contains(attribute); }
  const Node& node(int attribute) const { return *nodes.at(attribute).front(); }
};

/// Runs the operations of a graph in their order, on the addresses of a pack. Says in `why_not` what was wrong with it.
cudnnStatus_t run_graph(const Node& graph, const Node& pack, std::string& why_not);

}  // namespace emulation
